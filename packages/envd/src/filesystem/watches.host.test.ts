import { execFileSync } from 'node:child_process';
import {
  closeSync,
  constants,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import {
  appendFile,
  chmod,
  mkdir,
  open,
  rename,
  rm,
  rmdir,
  symlink,
  unlink,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import { Code, ConnectError, createClient, createRouterTransport } from '@connectrpc/connect';
import { O_TMPFILE } from '@torpor/linux';
import { envdFilesystem } from '@torpor/protocol';
import { type TestGuest, testGuest } from '@torpor/testkit/envd';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { registerFilesystem } from './index.ts';

const { CREATE, WRITE, REMOVE, RENAME, CHMOD } = envdFilesystem.EventType;
const NAMES = new Map<envdFilesystem.EventType, string>([
  [CREATE, 'CREATE'],
  [WRITE, 'WRITE'],
  [REMOVE, 'REMOVE'],
  [RENAME, 'RENAME'],
  [CHMOD, 'CHMOD'],
]);
const DEADLINE_MS = 10_000;

let guest: TestGuest;
let root: string;
let client: ReturnType<typeof connect>;
let watching: Watching[];

function connect() {
  const transport = createRouterTransport((router) => registerFilesystem(router, guest.context));
  return createClient(envdFilesystem.Filesystem, transport);
}

/** A watch by polling; every event so far is kept as `TYPE name`. */
class Watching implements AsyncDisposable {
  readonly events: envdFilesystem.FilesystemEvent[] = [];
  readonly id: string;

  constructor(id: string) {
    this.id = id;
  }

  get seen(): string[] {
    return this.events.map((event) => `${NAMES.get(event.type)} ${event.name}`);
  }

  async fetch(): Promise<void> {
    this.events.push(...(await client.getWatcherEvents({ watcherId: this.id })).events);
  }

  /** Fetches until this event has arrived. */
  async until(type: envdFilesystem.EventType, name: string): Promise<this> {
    const found = () => this.events.some((event) => event.type === type && event.name === name);
    await eventually(async () => {
      await this.fetch();
      if (!found()) throw new Error(`no ${NAMES.get(type)} ${name}: ${this.seen}`);
    });
    return this;
  }

  /** Fetches until all that was done before this call has been reported. */
  async settle(): Promise<this> {
    const name = `settled-${this.events.length}-${Math.random()}`;
    await writeFile(join(root, name), '');
    await this.until(CREATE, name);
    const kept = this.events.filter((event) => !event.name.startsWith('settled-'));
    this.events.splice(0, this.events.length, ...kept);
    return this;
  }

  count(type: envdFilesystem.EventType, name: string): number {
    return this.events.filter((event) => event.type === type && event.name === name).length;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await client.removeWatcher({ watcherId: this.id });
  }
}

async function eventually(attempt: () => Promise<void>): Promise<void> {
  const deadline = Date.now() + DEADLINE_MS;
  for (;;) {
    try {
      return await attempt();
    } catch (error) {
      if (Date.now() > deadline) throw error;
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }
}

async function watch(
  options: Partial<{ path: string; recursive: boolean; includeEntry: boolean }> = {},
): Promise<Watching> {
  const { watcherId } = await client.createWatcher({ path: root, recursive: true, ...options });
  const made = new Watching(watcherId);
  watching.push(made);
  return made;
}

async function codeOf(call: Promise<unknown>): Promise<Code> {
  try {
    await call;
  } catch (error) {
    return ConnectError.from(error).code;
  }
  throw new Error('the call succeeded');
}

beforeEach(async () => {
  guest = await testGuest();
  root = join(guest.directory, 'watched');
  await mkdir(root);
  client = connect();
  watching = [];
});

afterEach(async () => {
  for (const each of watching) await each[Symbol.asyncDispose]().catch(() => undefined);
  await guest[Symbol.asyncDispose]();
});

describe('the events of a directory', () => {
  it('reports what happens to a file, in order, with names relative to the directory', async () => {
    const events = await watch({ recursive: false });
    const file = join(root, 'file');
    await writeFile(file, '');
    await (await events.settle()).fetch();
    await appendFile(file, 'x');
    await events.settle();
    await chmod(file, 0o600);
    await events.settle();
    await rename(file, join(root, 'renamed'));
    await unlink(join(root, 'renamed'));
    await events.settle();
    expect(events.seen).toEqual([
      'CREATE file',
      'WRITE file',
      'CHMOD file',
      'RENAME file',
      'CREATE renamed',
      'REMOVE renamed',
    ]);
  });

  it('does not look into sub-directories unless asked to', async () => {
    await mkdir(join(root, 'sub'));
    const events = await watch({ recursive: false });
    await writeFile(join(root, 'sub/file'), 'x');
    await mkdir(join(root, 'new'));
    await writeFile(join(root, 'new/file'), 'x');
    await events.settle();
    expect(events.seen).toEqual(['CREATE new']);
  });

  it('watches the directory behind a link', async () => {
    await symlink(root, join(guest.directory, 'link'));
    const events = await watch({ path: join(guest.directory, 'link') });
    await writeFile(join(root, 'file'), '');
    await events.until(CREATE, 'file');
  });

  it('includes the entry on request, and none if it no longer exists', async () => {
    const events = await watch({ includeEntry: true });
    await writeFile(join(root, 'file'), 'hello');
    await events.until(WRITE, 'file');
    const write = events.events.find((event) => event.type === WRITE);
    expect(write?.entry).toMatchObject({ path: join(root, 'file'), size: 5n, owner: 'root' });
    await unlink(join(root, 'file'));
    await events.until(REMOVE, 'file');
    expect(events.events.find((event) => event.type === REMOVE)?.entry).toBeUndefined();
  });

  it('ignores nameless files, but not files with similar names', async () => {
    const events = await watch();
    const nameless = await open(root, O_TMPFILE | constants.O_RDWR);
    await nameless.write('x');
    await nameless.close();
    await writeFile(join(root, '#123'), 'x');
    await events.until(WRITE, '#123');
    expect(events.seen).toEqual(['CREATE #123', 'WRITE #123']);
  });

  it('closes when the directory itself is removed', async () => {
    const events = await watch();
    await rmdir(root);
    await events.until(REMOVE, '.');
    await events.fetch();
    expect(events.count(REMOVE, '.')).toBe(1);
  });
});

describe('a recursive watch', () => {
  it('covers what exists, and directories that are made later', async () => {
    await mkdir(join(root, 'old/deep'), { recursive: true });
    const events = await watch();
    await writeFile(join(root, 'old/deep/file'), 'x');
    await events.until(WRITE, 'old/deep/file');
    await mkdir(join(root, 'new'));
    await events.until(CREATE, 'new');
    await writeFile(join(root, 'new/file'), 'x');
    await events.until(WRITE, 'new/file');
  });

  it('reports each entry of a tree made in one go exactly once as created', async () => {
    const events = await watch();
    const names: string[] = [];
    for (let d = 0; d < 20; d++) {
      names.push(`d${d}`, `d${d}/s`);
      await mkdir(join(root, `d${d}/s`), { recursive: true });
      for (let f = 0; f < 10; f++) {
        names.push(`d${d}/s/f${f}`);
        await writeFile(join(root, `d${d}/s/f${f}`), 'x');
      }
    }
    await events.settle();
    for (const name of names) expect([name, events.count(CREATE, name)]).toEqual([name, 1]);
    for (const name of names.filter((each) => each.includes('/f')))
      expect([name, events.count(WRITE, name) > 0]).toEqual([name, true]);
  });

  it('reports a removal and a second creation under the same name', async () => {
    const events = await watch();
    for (let round = 0; round < 5; round++) {
      await mkdir(join(root, 'd'));
      await writeFile(join(root, 'd/f'), 'x');
      await rm(join(root, 'd'), { recursive: true });
    }
    await events.settle();
    expect(events.count(CREATE, 'd')).toBe(5);
    expect(events.count(REMOVE, 'd')).toBe(5);
    await mkdir(join(root, 'd'));
    await events.settle();
    await writeFile(join(root, 'd/last'), 'x');
    await events.until(CREATE, 'd/last');
  });

  it('follows a renamed directory to its new name', async () => {
    await mkdir(join(root, 'a/inner'), { recursive: true });
    await mkdir(join(root, 'other'));
    const events = await watch();
    await rename(join(root, 'a'), join(root, 'other/b'));
    await writeFile(join(root, 'other/b/inner/file'), 'x');
    await events.until(WRITE, 'other/b/inner/file');
    expect(events.seen).toContain('RENAME a');
    expect(events.seen).toContain('CREATE other/b');
    expect(events.seen.filter((each) => each.includes('a/'))).toEqual([]);
    expect(events.count(CREATE, 'other/b/inner')).toBe(0);
  });

  it('stops watching a directory that was moved away', async () => {
    await mkdir(join(root, 'a'));
    const events = await watch();
    await rename(join(root, 'a'), join(guest.directory, 'away'));
    await events.until(RENAME, 'a');
    await eventually(async () => {
      const before = events.events.length;
      await writeFile(join(guest.directory, 'away/probe'), String(Math.random()));
      await events.settle();
      if (events.events.length > before) throw new Error(`still watched: ${events.seen}`);
    });
  });

  it('reports the contents of a directory that was moved in', async () => {
    await mkdir(join(guest.directory, 'outside/sub'), { recursive: true });
    await writeFile(join(guest.directory, 'outside/sub/file'), 'x');
    const events = await watch();
    await rename(join(guest.directory, 'outside'), join(root, 'in'));
    await events.settle();
    expect(events.seen).toEqual(['CREATE in', 'CREATE in/sub', 'CREATE in/sub/file']);
    await appendFile(join(root, 'in/sub/file'), 'y');
    await events.until(WRITE, 'in/sub/file');
  });

  it('does not loop in a bind mount of its own parents', async () => {
    await mkdir(join(root, 'a/b/c'), { recursive: true });
    execFileSync('mount', ['--bind', join(root, 'a'), join(root, 'a/b/c')]);
    try {
      const events = await watch();
      await writeFile(join(root, 'a/file'), 'x');
      await events.until(WRITE, 'a/file');
      await writeFile(join(root, 'a/b/file'), 'x');
      await events.until(WRITE, 'a/b/file');
    } finally {
      execFileSync('umount', [join(root, 'a/b/c')]);
    }
  });

  it('reports the mode of a directory once, and only its own', async () => {
    await mkdir(join(root, 'sub'));
    const events = await watch();
    await chmod(join(root, 'sub'), 0o700);
    await events.settle();
    expect(events.seen).toEqual(['CHMOD sub']);
    expect(events.count(CHMOD, '.')).toBe(0);
  });
});

describe('limits', () => {
  it('fails, after the queued events, when the events are not fetched', async () => {
    const events = await watch();
    const limit = Number(readFileSync('/proc/sys/fs/inotify/max_queued_events', 'utf8'));
    // Three events each, and none is read meanwhile: nothing here waits.
    for (let file = 0; file < limit / 3 + 10; file++) {
      writeFileSync(join(root, 'file'), 'x');
      unlinkSync(join(root, 'file'));
    }
    let failure: Code | undefined;
    await eventually(async () => {
      try {
        await events.fetch();
      } catch (error) {
        failure = ConnectError.from(error).code;
        return;
      }
      throw new Error(`${events.events.length} events, and no failure`);
    });
    expect(failure).toBe(Code.DataLoss);
    expect(await codeOf(events.fetch())).toBe(Code.DataLoss);
    expect(events.events.length).toBeGreaterThan(1000);
  });

  it('refuses what does not exist or is not a directory', async () => {
    expect(await codeOf(client.createWatcher({ path: join(root, 'none') }))).toBe(Code.NotFound);
    await writeFile(join(root, 'file'), '');
    expect(await codeOf(client.createWatcher({ path: join(root, 'file') }))).toBe(
      Code.InvalidArgument,
    );
  });

  it('refuses a network file system unless it is allowed', async () => {
    // Mounted for another user, FUSE handles statfs(2) without its daemon, and refuses the rest.
    const device = openSync('/dev/fuse', 'r+');
    const options = 'fd=3,rootmode=40000,user_id=12345,group_id=12345';
    execFileSync('mount', ['-i', '-t', 'fuse', '-o', options, 'none', root], {
      stdio: ['ignore', 'ignore', 'inherit', device],
    });
    try {
      await expect(client.createWatcher({ path: root })).rejects.toThrow(
        'cannot watch path on network filesystem (FUSE)',
      );
      expect(await codeOf(client.createWatcher({ path: root }))).toBe(Code.InvalidArgument);
      const allowed = client.createWatcher({ path: root, allowNetworkMounts: true });
      expect(await codeOf(allowed)).toBe(Code.PermissionDenied);
      // Below a local directory it is skipped.
      await watch({ path: guest.directory });
    } finally {
      execFileSync('umount', ['-l', root]);
      closeSync(device);
    }
  });

  it('does not find a watcher that was removed', async () => {
    const events = await watch();
    await client.removeWatcher({ watcherId: events.id });
    expect(await codeOf(client.getWatcherEvents({ watcherId: events.id }))).toBe(Code.NotFound);
    expect(await codeOf(client.removeWatcher({ watcherId: events.id }))).toBe(Code.NotFound);
  });
});

describe('WatchDir', () => {
  it('streams a start, the events, and closes with the directory', async () => {
    const seen: string[] = [];
    for await (const { event } of client.watchDir({ path: root, recursive: true })) {
      if (event.case === 'start') await writeFile(join(root, 'file'), '');
      if (event.case !== 'filesystem') continue;
      seen.push(`${NAMES.get(event.value.type)} ${event.value.name}`);
      if (event.value.type === CREATE) await rm(root, { recursive: true });
    }
    expect(seen).toEqual(['CREATE file', 'REMOVE file', 'REMOVE .']);
  });

  it('sends keepalives at the interval in the header', async () => {
    const headers = { 'keepalive-ping-interval': '1' };
    const stream = client.watchDir({ path: root }, { headers });
    const cases: (string | undefined)[] = [];
    for await (const { event } of stream) {
      cases.push(event.case);
      if (cases.length === 3) break;
    }
    expect(cases).toEqual(['start', 'keepalive', 'keepalive']);
  });

  it('closes its inotify instance when the client disconnects', async () => {
    const instances = () =>
      readdirSync('/proc/self/fd').filter((fd) => linkOf(fd) === 'anon_inode:inotify').length;
    const before = instances();
    const abort = new AbortController();
    const stream = client.watchDir({ path: root }, { signal: abort.signal });
    const closed = (async () => {
      for await (const { event } of stream) if (event.case === 'start') abort.abort();
    })();
    await expect(closed).rejects.toThrow();
    await eventually(async () => {
      if (instances() !== before) throw new Error(`${instances()} instances, ${before} before`);
    });
  });

  it('returns not_found and invalid_argument at once', async () => {
    const first = async (path: string) => {
      for await (const _ of client.watchDir({ path })) return;
    };
    await writeFile(join(root, 'file'), '');
    expect(await codeOf(first(join(root, 'none')))).toBe(Code.NotFound);
    expect(await codeOf(first(join(root, 'file')))).toBe(Code.InvalidArgument);
  });
});

function linkOf(fd: string): string {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return '';
  }
}
