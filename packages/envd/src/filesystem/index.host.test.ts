import { execFileSync } from 'node:child_process';
import {
  chmod,
  link,
  mkdir,
  readdir,
  readFile,
  rename,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import { Code, ConnectError, createClient, createRouterTransport } from '@connectrpc/connect';
import { setXattr } from '@torpor/linux';
import { envdFilesystem } from '@torpor/protocol';
import { TEST_USER, type TestGuest, testGuest } from '@torpor/testkit/envd';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { permissionString } from './entry-info.ts';
import { registerFilesystem } from './index.ts';

const { FILE, DIRECTORY, SYMLINK } = envdFilesystem.FileType;
const AS_ALICE = { headers: { authorization: `Basic ${btoa('alice:')}` } };

let guest: TestGuest;
let directory: string;
let client: ReturnType<typeof connect>;

function connect() {
  const transport = createRouterTransport((router) => registerFilesystem(router, guest.context));
  return createClient(envdFilesystem.Filesystem, transport);
}

beforeEach(async () => {
  guest = await testGuest();
  directory = join(guest.directory, 'work');
  await mkdir(directory);
  client = connect();
});

afterEach(async () => {
  await guest[Symbol.asyncDispose]();
});

async function codeOf(call: Promise<unknown>): Promise<Code> {
  try {
    await call;
  } catch (error) {
    return ConnectError.from(error).code;
  }
  throw new Error('the call succeeded');
}

describe('Stat', () => {
  it('describes a file with its owner, mode, time, size and metadata', async () => {
    const path = join(directory, 'a.txt');
    await writeFile(path, 'hello');
    await chmod(path, 0o640);
    setXattr(path, 'user.e2b.origin', 'test');
    const { entry } = await client.stat({ path });
    expect(entry).toMatchObject({
      name: 'a.txt',
      path,
      type: FILE,
      size: 5n,
      mode: 0o640,
      permissions: '-rw-r-----',
      owner: 'root',
      group: 'root',
      metadata: { origin: 'test' },
    });
    const { mtimeMs } = await stat(path);
    expect(Number(entry?.modifiedTime?.seconds)).toBe(Math.floor(mtimeMs / 1000));
    expect(entry?.symlinkTarget).toBeUndefined();
  });

  it('gives a link the type of its target, and returns the target', async () => {
    await mkdir(join(directory, 'real'));
    await symlink('real', join(directory, 'link'));
    const { entry } = await client.stat({ path: join(directory, 'link') });
    expect(entry).toMatchObject({
      name: 'link',
      path: join(directory, 'link'),
      type: DIRECTORY,
      mode: 0o755,
      permissions: 'Lrwxrwxrwx',
      symlinkTarget: join(directory, 'real'),
    });
  });

  it('still describes a dangling or cyclic link', async () => {
    await symlink('nowhere', join(directory, 'broken'));
    await symlink('loop', join(directory, 'loop'));
    const broken = await client.stat({ path: join(directory, 'broken') });
    const loop = await client.stat({ path: join(directory, 'loop') });
    expect(broken.entry?.type).toBe(SYMLINK);
    expect(loop.entry).toMatchObject({
      type: SYMLINK,
      symlinkTarget: join(directory, 'loop'),
    });
  });

  it('returns not_found, also below a file', async () => {
    await writeFile(join(directory, 'file'), '');
    expect(await codeOf(client.stat({ path: join(directory, 'none') }))).toBe(Code.NotFound);
    expect(await codeOf(client.stat({ path: join(directory, 'file/x') }))).toBe(Code.NotFound);
  });

  it('resolves empty, home and relative paths for the requesting user', async () => {
    await writeFile(join(guest.home, 'mine'), '');
    for (const path of ['', '~', '.'])
      expect((await client.stat({ path }, AS_ALICE)).entry?.path).toBe(guest.home);
    for (const path of ['mine', '~/mine', './x/../mine'])
      expect((await client.stat({ path }, AS_ALICE)).entry?.path).toBe(join(guest.home, 'mine'));
    guest.context.defaultWorkdir = directory;
    expect((await client.stat({ path: '' }, AS_ALICE)).entry?.path).toBe(directory);
    expect(await codeOf(client.stat({ path: '~bob/x' }))).toBe(Code.InvalidArgument);
    expect(await codeOf(client.stat({ path: 'a\0b' }))).toBe(Code.InvalidArgument);
  });

  it('refuses an unknown user', async () => {
    const asNobody = { headers: { authorization: `Basic ${btoa('mallory:')}` } };
    expect(await codeOf(client.stat({ path: '/' }, asNobody))).toBe(Code.Unauthenticated);
  });
});

describe('permissionString', () => {
  it.each([
    [0o100644, '-rw-r--r--'],
    [0o040755, 'drwxr-xr-x'],
    [0o041777, 'dtrwxrwxrwx'],
    [0o104755, 'urwxr-xr-x'],
    [0o102755, 'grwxr-xr-x'],
    [0o020666, 'Dcrw-rw-rw-'],
    [0o060660, 'Drw-rw----'],
    [0o010600, 'prw-------'],
    [0o140777, 'Srwxrwxrwx'],
  ])('writes mode %o as %s', (mode, text) => {
    expect(permissionString(mode)).toBe(text);
  });
});

describe('MakeDir', () => {
  it('creates the parents too, all of them owned by the user', async () => {
    const path = join(directory, 'a/b/c');
    const { entry } = await client.makeDir({ path }, AS_ALICE);
    expect(entry).toMatchObject({ path, type: DIRECTORY, mode: 0o755, owner: 'alice' });
    for (const made of ['a', 'a/b', 'a/b/c']) {
      const { uid, gid, mode } = await stat(join(directory, made));
      expect([uid, gid, mode & 0o777]).toEqual([TEST_USER.uid, TEST_USER.gid, 0o755]);
    }
    expect((await stat(directory)).uid).toBe(0);
  });

  it('refuses a directory that exists, and a file', async () => {
    await writeFile(join(directory, 'file'), '');
    expect(await codeOf(client.makeDir({ path: directory }))).toBe(Code.AlreadyExists);
    for (const path of ['file', 'file/below'])
      expect(await codeOf(client.makeDir({ path: join(directory, path) }))).toBe(
        Code.InvalidArgument,
      );
  });
});

describe('Move', () => {
  it('renames, replaces a file, and makes the missing parents for the user', async () => {
    await writeFile(join(directory, 'from'), 'new');
    await writeFile(join(directory, 'to'), 'old');
    const { entry } = await client.move({
      source: join(directory, 'from'),
      destination: join(directory, 'to'),
    });
    expect(entry).toMatchObject({ name: 'to', size: 3n });
    expect(await readFile(join(directory, 'to'), 'utf8')).toBe('new');
    await client.move(
      { source: join(directory, 'to'), destination: join(directory, 'x/y/z') },
      AS_ALICE,
    );
    expect((await stat(join(directory, 'x/y'))).uid).toBe(TEST_USER.uid);
  });

  it('makes no parents for a source that does not exist', async () => {
    const call = client.move({
      source: join(directory, 'none'),
      destination: join(directory, 'p/q'),
    });
    expect(await codeOf(call)).toBe(Code.NotFound);
    expect(await codeOf(client.stat({ path: join(directory, 'p') }))).toBe(Code.NotFound);
  });

  it('refuses to move a directory into itself or onto a full one', async () => {
    await mkdir(join(directory, 'a'));
    await mkdir(join(directory, 'b'));
    await writeFile(join(directory, 'b/full'), '');
    const move = (from: string, to: string) =>
      codeOf(client.move({ source: join(directory, from), destination: join(directory, to) }));
    expect(await move('a', 'a/inner')).toBe(Code.InvalidArgument);
    expect(await move('a', 'b')).toBe(Code.FailedPrecondition);
  });

  it('moves to another file system with owner, mode, metadata and links', async () => {
    await mkdir(join(directory, 'mount'));
    execFileSync('mount', ['-t', 'tmpfs', 'tmpfs', join(directory, 'mount')]);
    try {
      await mkdir(join(directory, 'tree/sub'), { recursive: true });
      await writeFile(join(directory, 'tree/sub/file'), 'content');
      execFileSync('chown', ['12345:12346', join(directory, 'tree/sub/file')]);
      await chmod(join(directory, 'tree/sub/file'), 0o4750);
      await symlink('sub/file', join(directory, 'tree/link'));
      await client.move({
        source: join(directory, 'tree'),
        destination: join(directory, 'mount/tree'),
      });
      const { entry } = await client.stat({ path: join(directory, 'mount/tree/sub/file') });
      expect(entry).toMatchObject({ owner: 'alice', permissions: 'urwxr-x---', size: 7n });
      expect(await readFile(join(directory, 'mount/tree/link'), 'utf8')).toBe('content');
      expect(await codeOf(client.stat({ path: join(directory, 'tree') }))).toBe(Code.NotFound);
    } finally {
      execFileSync('umount', [join(directory, 'mount')]);
    }
  });
});

describe('Move on an overlay', () => {
  it('moves a directory of the lower layer, which the kernel refuses to rename', async () => {
    for (const layer of ['lower/dir/sub', 'upper', 'work', 'merged'])
      await mkdir(join(directory, layer), { recursive: true });
    await writeFile(join(directory, 'lower/dir/sub/file'), 'content');
    const merged = join(directory, 'merged');
    const layers = ['lower', 'upper', 'work'].map((layer) => `${layer}dir=${directory}/${layer}`);
    const options = [...layers, 'redirect_dir=off'].join(',');
    execFileSync('mount', ['-t', 'overlay', '-o', options, 'overlay', merged]);
    try {
      await expect(rename(join(merged, 'dir'), join(merged, 'x'))).rejects.toThrow('EXDEV');
      await client.move({ source: join(merged, 'dir'), destination: join(merged, 'moved') });
      expect(await readFile(join(merged, 'moved/sub/file'), 'utf8')).toBe('content');
      expect(await readdir(merged)).toEqual(['moved']);
    } finally {
      execFileSync('umount', [merged]);
    }
  });
});

describe('ListDir', () => {
  beforeEach(async () => {
    await mkdir(join(directory, 'b/c'), { recursive: true });
    await writeFile(join(directory, 'b/c/deep'), '');
    await writeFile(join(directory, 'a'), '');
    await writeFile(join(directory, 'd'), '');
    await symlink('b', join(directory, 'link'));
  });

  const names = async (path: string, depth?: number) => {
    const { entries } = await client.listDir({ path, ...(depth === undefined ? {} : { depth }) });
    return entries.map((entry) => entry.path.slice(path.length + 1));
  };

  it('lists down to the given depth, in lexical order, and does not follow links inside', async () => {
    expect(await names(directory)).toEqual(['a', 'b', 'd', 'link']);
    expect(await names(directory, 2)).toEqual(['a', 'b', 'b/c', 'd', 'link']);
    expect(await names(directory, 9)).toEqual(['a', 'b', 'b/c', 'b/c/deep', 'd', 'link']);
  });

  it('follows a link at its root, and names the entries below the link', async () => {
    expect(await names(join(directory, 'link'), 2)).toEqual(['c', 'c/deep']);
  });

  it('distinguishes a missing path, a file and a cycle', async () => {
    await symlink('loop', join(directory, 'loop'));
    const code = (name: string) => codeOf(client.listDir({ path: join(directory, name) }));
    expect(await code('none')).toBe(Code.NotFound);
    expect(await code('a')).toBe(Code.InvalidArgument);
    expect(await code('loop')).toBe(Code.FailedPrecondition);
  });
});

describe('Remove', () => {
  it('removes a tree, and what no longer exists without an error', async () => {
    await mkdir(join(directory, 'tree/sub'), { recursive: true });
    await writeFile(join(directory, 'tree/sub/file'), '');
    await client.remove({ path: join(directory, 'tree') });
    await client.remove({ path: join(directory, 'tree') });
    expect(await codeOf(client.stat({ path: join(directory, 'tree') }))).toBe(Code.NotFound);
  });

  it('removes a link and a hard link, not their targets', async () => {
    await writeFile(join(directory, 'file'), 'kept');
    await symlink('file', join(directory, 'link'));
    await link(join(directory, 'file'), join(directory, 'hard'));
    await client.remove({ path: join(directory, 'link') });
    await client.remove({ path: join(directory, 'hard') });
    expect(await readFile(join(directory, 'file'), 'utf8')).toBe('kept');
  });

  it('refuses the root directory', async () => {
    expect(await codeOf(client.remove({ path: '/tmp/..' }))).toBe(Code.InvalidArgument);
  });
});
