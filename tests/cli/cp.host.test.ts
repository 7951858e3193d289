import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { createReadStream } from 'node:fs';
import {
  appendFile,
  chmod,
  lstat,
  mkdir,
  mkdtemp,
  open,
  readdir,
  readFile,
  readlink,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { getXattr, setXattr } from '@torpor/linux';
import { cli } from '@torpor/testkit/cli';
import { type Harness, startHarness, until } from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { describeTree, makeSocket, makeTreeOfEveryKind } from '../support/file-tree.ts';

/*
 * The program in the sandbox is the real one, as a process on this machine; each sandbox has a
 * directory for its files, to which relative paths are relative.
 */

const MIB = 1024 * 1024;

const resources = new AsyncDisposableStack();
let harness: Harness;
let id: string;
let other: string;
/** The directories of the sandbox and of this machine; both are empty before each test. */
let there: string;
let here: string;

beforeAll(async () => {
  harness = resources.use(await startHarness());
  here = await mkdtemp(join(tmpdir(), 'torpor-cp-'));
  resources.defer(() => rm(here, { recursive: true }));
  id = (await harness.create()).id;
  other = (await harness.create()).id;
  there = join(harness.agent.root, id);
});
beforeEach(async () => {
  for (const directory of [here, there]) {
    // Only root can remove some of it, and Node cannot remove names that are not UTF-8.
    execFileSync('find', [directory, '-mindepth', '1', '-delete']);
  }
});
afterAll(() => resources.disposeAsync());

function env() {
  return { TORPOR_DATA_DIR: harness.dataDir };
}

function cp(source: string, destination: string, ...options: string[]) {
  return cli(['cp', ...options, source, destination], { env: env() });
}

const done = { exitCode: 0, stderr: '', stdout: '' };

describe('a tree of every kind of entry', () => {
  /** The root keeps its name, so that both can be compared. */
  const withoutOwners = (tree: Record<string, unknown>) =>
    Object.fromEntries(
      Object.entries(tree).map(([path, entry]) => [path, { ...(entry as object), owner: '' }]),
    );

  test('with --archive is the same on the other side, in both directions', async () => {
    makeTreeOfEveryKind(join(here, 'tree'));
    const original = describeTree(join(here, 'tree'));
    expect(Object.keys(original)).toHaveLength(49);
    expect(await cp(join(here, 'tree'), `${id}:`, '--archive')).toMatchObject(done);
    expect(describeTree(join(there, 'tree'))).toEqual(original);
    expect(await cp(`${id}:tree`, join(here, 'back'), '--archive')).toMatchObject(done);
    expect(describeTree(join(here, 'back'))).toEqual(original);
  });

  test('keeps extended attributes: those of users always, others with --archive', async () => {
    const attributes = { 'user.note': 'n\u0000te', 'trusted.x': 'left', 'user.empty': '' };
    const source = join(here, 'tree');
    await mkdir(source);
    await writeFile(join(source, 'file'), 'x');
    for (const [name, value] of Object.entries(attributes)) {
      for (const path of [source, join(source, 'file')]) setXattr(path, name, value);
    }
    // An access control list of version 2 that lets user 1234 read (acl(5)).
    const acl = [
      '02000000',
      '01000600ffffffff',
      '02000400d2040000',
      '04000400ffffffff',
      '10000400ffffffff',
      '20000400ffffffff',
    ].join('');
    setXattr(join(source, 'file'), 'system.posix_acl_access', Buffer.from(acl, 'hex'));
    const attribute = (path: string, name: string) => getXattr(path, name)?.toString();

    expect(await cp(source, `${id}:plain`)).toMatchObject({
      exitCode: 1,
      stderr:
        'torpor: not copied: file: its attribute system.posix_acl_access, which only --archive copies\n',
    });
    expect(await cp(source, `${id}:all`, '-a')).toMatchObject(done);
    expect(await cp(`${id}:all`, join(here, 'back'), '-a')).toMatchObject(done);
    for (const copy of [join(there, 'plain'), join(there, 'all'), join(here, 'back')]) {
      for (const path of [copy, join(copy, 'file')]) {
        expect(attribute(path, 'user.note')).toBe('n\u0000te');
        expect(attribute(path, 'user.empty')).toBe('');
      }
    }
    expect(getXattr(join(there, 'plain/file'), 'system.posix_acl_access')).toBeUndefined();
    for (const copy of [join(there, 'all/file'), join(here, 'back/file')]) {
      expect(getXattr(copy, 'system.posix_acl_access')).toEqual(
        getXattr(join(source, 'file'), 'system.posix_acl_access'),
      );
    }
  });

  test('without it lacks owners and devices, and what comes out lacks set-id bits; each is named', async () => {
    makeTreeOfEveryKind(join(here, 'tree'));
    const original = withoutOwners(describeTree(join(here, 'tree')));
    const device = 'torpor: not copied: device: it is a device, which only --archive copies\n';
    const expected = { ...original };
    delete expected.device;
    expect(await cp(join(here, 'tree'), `${id}:`)).toEqual(
      expect.objectContaining({ exitCode: 1, stderr: device }),
    );
    expect(withoutOwners(describeTree(join(there, 'tree')))).toEqual(expected);
    expect((await lstat(join(there, 'tree/odd-size'))).uid).toBe(process.getuid?.());

    expect(await cp(`${id}:tree`, join(here, 'back'))).toMatchObject({
      exitCode: 1,
      stderr: 'torpor: not copied: set-id: its set-user-ID or set-group-ID bit\n',
    });
    expect(withoutOwners(describeTree(join(here, 'back')))).toEqual({
      ...expected,
      'set-id': { ...(expected['set-id'] as object), mode: '100755' },
    });
  });

  test('into itself again changes nothing', async () => {
    makeTreeOfEveryKind(join(here, 'tree'));
    await cp(join(here, 'tree'), `${id}:`, '-a');
    const once = describeTree(join(there, 'tree'));
    expect(await cp(`${here}/tree/.`, `${id}:tree`, '-a')).toMatchObject(done);
    const twice = describeTree(join(there, 'tree'));
    // An existing directory keeps its entries; only its time shows that it was written to.
    const files = (tree: Record<string, unknown>) =>
      Object.entries(tree).filter(([, entry]) => 'size' in (entry as object));
    expect(files(twice)).toEqual(files(once));
  });

  test('is copied from one sandbox to another', async () => {
    makeTreeOfEveryKind(join(there, 'tree'));
    expect(await cp(`${id}:tree`, `${other}:`, '-a')).toMatchObject(done);
    expect(describeTree(join(harness.agent.root, other, 'tree'))).toEqual(
      describeTree(join(there, 'tree')),
    );
  });
});

describe('a single file', () => {
  test('is copied in and out byte for byte, with its mode and its time', async () => {
    await writeFile(join(here, 'original'), randomBytes(3 * MIB + 7));
    await chmod(join(here, 'original'), 0o751);
    execFileSync('touch', ['-d', '1999-12-31 12:00:00.123456789Z', join(here, 'original')]);
    const original = describeTree(join(here, 'original'));
    expect(await cp(join(here, 'original'), `${id}:data`)).toMatchObject(done);
    expect(describeTree(join(there, 'data'))).toEqual(original);
    const result = await cp(`${id}:data`, join(here, 'copy'), '--json', '--verify');
    expect(JSON.parse(result.stdout)).toEqual({
      from: 'data',
      to: join(here, 'copy'),
      bytes: 3 * MIB + 7,
      sha256: expect.stringMatching(/^[0-9a-f]{64}$/),
    });
    expect(describeTree(join(here, 'copy'))).toEqual(original);
  });

  test('with holes has them on the other side too', async () => {
    execFileSync('truncate', ['-s', '200M', join(here, 'hole')]);
    expect((await cp(join(here, 'hole'), `${id}:`)).exitCode).toBe(0);
    expect(await stat(join(there, 'hole'))).toMatchObject({ size: 200 * MIB, blocks: 0 });
    expect((await cp(`${id}:hole`, join(here, 'back'))).exitCode).toBe(0);
    expect(await stat(join(here, 'back'))).toMatchObject({ size: 200 * MIB, blocks: 0 });
  });

  test('of /proc, whose size is 0, is copied with its content', async () => {
    expect((await cp(`${id}:/proc/version`, here)).exitCode).toBe(0);
    expect(await readFile(join(here, 'version'), 'utf8')).toBe(
      await readFile('/proc/version', 'utf8'),
    );
  });

  test('that is a symbolic link is copied as its target', async () => {
    await writeFile(join(here, 'file'), 'x');
    await symlink('file', join(here, 'link'));
    expect(await cp(join(here, 'link'), `${id}:copy`)).toMatchObject(done);
    expect((await lstat(join(there, 'copy'))).isFile()).toBe(true);
  });

  test('/dev/null is empty as a source, and accepts anything as a destination', async () => {
    expect(await cp('/dev/null', `${id}:empty`)).toMatchObject(done);
    expect(await stat(join(there, 'empty'))).toMatchObject({ size: 0, mode: 0o100666 });
    await writeFile(join(here, 'file'), 'x');
    expect(await cp(`${id}:empty`, '/dev/null')).toMatchObject(done);
    expect(await cp(join(here, 'file'), `${id}:/dev/null`)).toMatchObject(done);
    expect((await stat('/dev/null')).isCharacterDevice()).toBe(true);
    expect(await cp(here, `${id}:/dev/null`)).toMatchObject({ exitCode: 5 });
  });

  test('is written into a FIFO, with zeros for its holes', async () => {
    execFileSync('mkfifo', [join(here, 'fifo')]);
    execFileSync('truncate', ['-s', '100000', join(there, 'hole')]);
    const read = createReadStream(join(here, 'fifo')).toArray();
    expect(await cp(`${id}:hole`, join(here, 'fifo'))).toMatchObject(done);
    expect(Buffer.concat(await read).equals(Buffer.alloc(100_000))).toBe(true);
  });
});

describe('the destination', () => {
  beforeEach(async () => {
    await writeFile(join(here, 'file'), 'new');
    await mkdir(join(here, 'dir'));
    await writeFile(join(here, 'dir/member'), 'new');
    await mkdir(join(there, 'into'), { mode: 0o751 });
    await writeFile(join(there, 'old'), 'old');
    await symlink('old', join(there, 'to-file'));
    await symlink('into', join(there, 'to-dir'));
    await symlink('made', join(there, 'dangling'));
    await symlink('loop', join(there, 'loop'));
  });
  const text = (path: string) => readFile(join(there, path), 'utf8');

  test.each([
    ['a name', 'file', 'name', 'name'],
    ['a directory', 'file', 'into', 'into/file'],
    ['a directory with a slash', 'file', 'into/', 'into/file'],
    ['the home directory', 'file', '', 'file'],
    ['a file', 'file', 'old', 'old'],
    ['a link to a file', 'file', 'to-file', 'old'],
    ['a link to a directory', 'file', 'to-dir', 'into/file'],
    ['a link to what is not there yet', 'file', 'dangling', 'made'],
    ['a name, for a directory', 'dir', 'name', 'name/member'],
    ['a name with a slash, for a directory', 'dir', 'name/', 'name/member'],
    ['a directory with a slash, for one with a slash', 'dir/', 'into/', 'into/dir/member'],
    ['a directory, for a directory', 'dir', 'into', 'into/dir/member'],
    ['the home directory, for a directory', 'dir', '', 'dir/member'],
    ['a link to a directory, for a directory', 'dir', 'to-dir', 'into/dir/member'],
    ['a directory, for the contents of one', 'dir/.', 'into', 'into/member'],
    ['a name, for the contents of a directory', 'dir/.', 'name', 'name/member'],
  ])('is %s', async (_, source, destination, path) => {
    const links = ['to-file', 'to-dir', 'dangling'];
    expect(await cp(`${here}/${source}`, `${id}:${destination}`)).toMatchObject(done);
    expect(await text(path)).toBe('new');
    for (const link of links) expect((await lstat(join(there, link))).isSymbolicLink()).toBe(true);
    expect((await stat(join(there, 'into'))).mode & 0o7777).toBe(0o751);
  });

  test.each([
    ['a file, for a directory', 'dir', 'old', 5, 'old exists and is not a directory'],
    ['a directory of the name of the file', 'file', 'blocked', 5, 'file is a directory'],
    [
      'in a directory that is missing',
      'file',
      'no/such/name',
      3,
      'The directory no/such does not exist',
    ],
    ['a missing directory with a slash', 'file', 'name/', 3, 'The directory name/ does not exist'],
    ['a file with a slash', 'file', 'old/', 3, 'The directory old/ does not exist'],
    ['a link to itself', 'file', 'loop', 1, 'too many levels of symbolic links'],
  ])('cannot be %s', async (_, source, destination, exitCode, sentence) => {
    await mkdir(join(there, 'blocked/file'), { recursive: true });
    const before = describeTree(there);
    const result = await cp(join(here, source), `${id}:${destination}`);
    expect(result).toMatchObject({ exitCode, stdout: '' });
    expect(result.stderr).toContain(`In the sandbox: `);
    expect(result.stderr).toContain(sentence);
    expect(describeTree(there)).toEqual(before);
  });

  test('is filled if it is a directory; conflicting entries in it are named', async () => {
    await mkdir(join(there, 'into/dir/sub/kept'), { recursive: true });
    await writeFile(join(there, 'into/dir/other'), 'kept');
    await mkdir(join(there, 'into/dir/member'));
    await mkdir(join(here, 'dir/other'));
    await mkdir(join(here, 'dir/sub'));
    await writeFile(join(here, 'dir/sub/added'), 'new');
    const result = await cp(join(here, 'dir'), `${id}:into`, '--json');
    expect(result.exitCode).toBe(1);
    expect(JSON.parse(result.stdout)).toMatchObject({
      omitted: [
        { path: 'member', reason: 'a directory with that name exists' },
        { path: 'other', reason: 'a file with that name exists' },
      ],
    });
    expect(await text('into/dir/sub/added')).toBe('new');
    expect(await text('into/dir/other')).toBe('kept');
    expect(await readdir(join(there, 'into/dir/sub'))).toEqual(['added', 'kept']);
    expect((await readdir(join(there, 'into/dir'))).toSorted()).toEqual(['member', 'other', 'sub']);
  });

  test('here follows the same rules', async () => {
    await symlink('elsewhere', join(here, 'link'));
    expect(await cp(`${id}:old`, join(here, 'link'))).toMatchObject(done);
    expect(await readlink(join(here, 'link'))).toBe('elsewhere');
    expect(await readFile(join(here, 'elsewhere'), 'utf8')).toBe('old');
    expect(await cp(`${id}:old`, join(here, 'no/such/name'))).toMatchObject({ exitCode: 3 });
    expect(await cp(`${id}:into`, join(here, 'file'))).toMatchObject({ exitCode: 5 });
    expect(await cp(`${id}:missing`, join(here, 'x'))).toMatchObject({
      exitCode: 3,
      stderr: 'torpor: In the sandbox: missing: no such file or directory\n',
    });
    expect(await cp(join(here, 'missing'), `${id}:x`)).toMatchObject({ exitCode: 3 });
    expect((await readdir(here)).toSorted()).toEqual(['dir', 'elsewhere', 'file', 'link']);
  });
});

describe('an entry that cannot be copied exactly', () => {
  test('is named, and the rest is copied: a socket, a file that grows', async () => {
    await mkdir(join(here, 'tree'));
    await makeSocket(join(here, 'tree/socket\u001b[2J'));
    await writeFile(join(here, 'tree/log'), randomBytes(8 * MIB));
    await writeFile(join(here, 'tree/other'), 'x');
    const before = await readFile(join(here, 'tree/log'));
    let copying = true;
    const growing = (async () => {
      while (copying) await appendFile(join(here, 'tree/log'), 'more\n');
    })();
    const result = await cp(join(here, 'tree'), `${id}:`);
    copying = false;
    await growing;
    expect(result).toMatchObject({
      exitCode: 1,
      stderr:
        'torpor: not copied: log: it changed during the copy\n' +
        'torpor: not copied: socket\\x1b[2J: it is a socket\n',
    });
    expect(await readdir(join(there, 'tree'))).toEqual(['log', 'other']);
    const copy = await readFile(join(there, 'tree/log'));
    expect(copy.subarray(0, before.length).equals(before)).toBe(true);
  });

  test('is an error if the disk is full, and nothing is left of it', async () => {
    await mkdir(join(there, 'small'));
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', join(there, 'small')]);
    try {
      await writeFile(join(here, 'large'), randomBytes(2 * MIB));
      expect(await cp(join(here, 'large'), `${id}:small`, '--json')).toMatchObject({
        exitCode: 1,
        stdout: expect.stringContaining('"code":"sandbox_disk_full"'),
        stderr: expect.stringContaining('Free space in the sandbox'),
      });
      expect(await readdir(join(there, 'small'))).toEqual([]);
      await writeFile(join(there, 'large'), randomBytes(2 * MIB));
      expect(await cp(`${id}:large`, join(there, 'small'), '--json')).toMatchObject({
        stdout: expect.stringContaining('"code":"disk_full"'),
        stderr: expect.stringContaining('Free space in this machine'),
      });
      expect(await readdir(join(there, 'small'))).toEqual([]);
    } finally {
      execFileSync('umount', [join(there, 'small')]);
    }
  });

  test('nonsense is 2', async () => {
    expect((await cp('a', 'b')).exitCode).toBe(2);
    expect((await cp('-', `${id}:b`)).exitCode).toBe(2);
    expect((await cp('', `${id}:b`)).exitCode).toBe(2);
  });
});

describe('a copy that is interrupted', () => {
  /** A source without an end: a FIFO that the test holds open. */
  async function heldFifo(directory: string) {
    const path = join(directory, 'fifo');
    execFileSync('mkfifo', [path]);
    const held = await open(path, 'r+');
    await held.write(Buffer.alloc(4096, 'x'));
    return { path, [Symbol.asyncDispose]: () => held.close() };
  }
  const isStaging = (name: string) => name.startsWith('.torpor-cp-');
  const staged = async (directory: string) => (await readdir(directory)).some(isStaging);

  test.each(['SIGINT', 'SIGTERM'] as const)(
    'by %s leaves nothing in the sandbox',
    async (signal) => {
      await using source = await heldFifo(here);
      await writeFile(join(there, 'target'), 'old');
      let interrupt: (signal: 'SIGINT' | 'SIGTERM') => void = () => undefined;
      const running = cli(['cp', source.path, `${id}:target`], {
        env: env(),
        onStart: (send) => {
          interrupt = send;
        },
      });
      await until(() => staged(there));
      interrupt(signal);
      const { exitCode, stderr } = await running;
      expect({ exitCode, stderr }).toEqual({
        exitCode: signal === 'SIGINT' ? 130 : 143,
        stderr: 'torpor: The copy was interrupted; nothing of it remains.\n',
      });
      expect(await readdir(there)).toEqual(['target']);
      expect(await readFile(join(there, 'target'), 'utf8')).toBe('old');
    },
  );

  test('by SIGINT leaves nothing here', async () => {
    await using source = await heldFifo(there);
    await mkdir(join(here, 'into'));
    let interrupt: (signal: 'SIGINT' | 'SIGTERM') => void = () => undefined;
    const running = cli(['cp', `${id}:${source.path}`, join(here, 'into')], {
      env: env(),
      onStart: (send) => {
        interrupt = send;
      },
    });
    await until(() => staged(join(here, 'into')));
    interrupt('SIGINT');
    expect((await running).exitCode).toBe(130);
    expect(await readdir(join(here, 'into'))).toEqual([]);
    await until(() => harness.agent.programs.pids.length === 0);
  });

  test('because the program in the sandbox is killed leaves nothing on either side', async () => {
    await using source = await heldFifo(here);
    const running = cp(source.path, `${id}:target`);
    await until(() => staged(there));
    harness.agent.programs.killAll();
    expect((await running).exitCode).toBe(1);
    await until(async () => !(await staged(there)));
    expect(await readdir(there)).toEqual([]);
  });

  test('because the sending program is killed leaves nothing here', async () => {
    await using source = await heldFifo(there);
    await mkdir(join(here, 'into'));
    const running = cp(`${id}:${source.path}`, join(here, 'into'));
    await until(() => staged(join(here, 'into')));
    harness.agent.programs.killAll();
    expect((await running).exitCode).toBe(1);
    expect(await readdir(join(here, 'into'))).toEqual([]);
  });
});
