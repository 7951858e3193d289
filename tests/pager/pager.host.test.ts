import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdtemp, open, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { applyChanges, newBuildId, writeMemoryHeader, zeroMapping } from '@torpor/builds';
import { connectPager, type PagerClient, type PagerEvent } from '@torpor/pager';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { BLOCK, patternOf } from './client-process.ts';

/** A campaign raises it to 10⁶. */
const FAULTS = Number(process.env.TORPOR_PAGER_FAULTS ?? 100_000);
const CLIENT = fileURLToPath(new URL('./client-process.ts', import.meta.url));

let directory: string;
let pager: PagerClient;
let pagerPid: number;
let children: ChildProcess[];

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'torpor-pager-'));
  children = [];
  await attach();
});

afterEach(async () => {
  for (const child of children) child.kill('SIGKILL');
  pager.close();
  try {
    process.kill(pagerPid, 'SIGKILL');
  } catch {
    // A test killed it.
  }
  await rm(directory, { recursive: true });
});

async function attach() {
  const connection = await connectPager({
    socketPath: join(directory, 'control'),
    logPath: join(directory, 'log'),
    threads: 1,
  });
  pager = connection.client;
  pagerPid = connection.hello.pid;
  return connection;
}

interface TestBuild {
  readonly headerPath: string;
  readonly diffPaths: Record<string, string>;
  readonly diffPath: string;
}

/** A build whose RAM has the client's pattern. */
async function makeBuild(blocks: number): Promise<TestBuild> {
  const id = newBuildId();
  const diffPath = join(directory, id);
  const changes = new Uint8Array(blocks);
  await using diff = await open(diffPath, 'w');
  for (let block = 0; block < blocks; block++) {
    const value = patternOf(block);
    changes[block] = value === 0 ? 1 : 2;
    if (value !== 0) await diff.writeFile(Buffer.alloc(BLOCK, value));
  }
  const mapping = applyChanges(zeroMapping(blocks), id, changes);
  const headerPath = `${diffPath}.header`;
  const header = { generation: 0, buildId: id, baseBuildId: id, mapping };
  await writeFile(headerPath, writeMemoryHeader(header));
  return { headerPath, diffPaths: { [id]: diffPath }, diffPath };
}

const serve = (vm: string, build: TestBuild, more: { workingSet?: number[] } = {}) =>
  pager.serve({
    vm,
    socketPath: join(directory, vm),
    headerPath: build.headerPath,
    diffPaths: build.diffPaths,
    ...more,
  });

interface Client {
  readonly child: ChildProcess;
  /** What the client prints when it has touched all pages; undefined if it exited before. */
  readonly results: Promise<{ faults: number; wrong: number }[] | undefined>;
  readonly signal: Promise<NodeJS.Signals | null>;
}

function startClient(
  vm: string,
  blocks: number,
  faults: number,
  threads: number,
  ...options: ('hang-up' | 'execute')[]
): Client {
  const args = [CLIENT, join(directory, vm), ...[blocks, faults, threads].map(String), ...options];
  const child = spawn(process.execPath, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  children.push(child);
  const signal = new Promise<NodeJS.Signals | null>((resolve) => {
    child.once('exit', (_, name) => resolve(name));
  });
  const results = new Promise<{ faults: number; wrong: number }[] | undefined>((resolve) => {
    child.stdout?.once('data', (line: Buffer) => resolve(JSON.parse(line.toString())));
    child.once('exit', () => resolve(undefined));
  });
  return { child, results, signal };
}

/** utime and stime of proc_pid_stat(5), in hundredths of a second. */
async function processorTicks(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return Number(fields[11]) + Number(fields[12]);
}

function nextEvent(kind: PagerEvent['event'], vm: string): Promise<PagerEvent> {
  const { promise, resolve } = Promise.withResolvers<PagerEvent>();
  const subscription = pager.onEvent((event) => {
    if (event.event !== kind || event.vm !== vm) return;
    subscription[Symbol.dispose]();
    resolve(event);
  });
  return promise;
}

describe('a client in another process', () => {
  test('reads no wrong byte, from four threads that release pages in between', {
    timeout: 600_000,
  }, async () => {
    const blocks = 8192;
    await serve('vm', await makeBuild(blocks));
    const client = startClient('vm', blocks, FAULTS, 4);
    const results = (await client.results) ?? [];
    expect(results.map((result) => result.wrong)).toEqual([0, 0, 0, 0]);
    const { statistics } = await pager.describe('vm');
    expect(statistics.faults).toBeGreaterThan(FAULTS / 4);
    expect(statistics.removedPages).toBeGreaterThan(FAULTS / 4);
    expect(statistics.latency.reduce((sum, count) => sum + count, 0)).toBe(statistics.faults);
    client.child.stdin?.end();
    expect((await nextEvent('released', 'vm')).vm).toBe('vm');
  });

  test('may disconnect after the handshake: it is served, and the pager waits without using the processor', async () => {
    const blocks = 1024;
    await serve('vm', await makeBuild(blocks));
    const client = startClient('vm', blocks, 1000, 2, 'hang-up');
    expect((await client.results)?.map((result) => result.wrong)).toEqual([0, 0]);
    const before = await processorTicks(pagerPid);
    // Long enough for a loop that does not wait to use a hundred ticks.
    await delay(1000);
    expect((await processorTicks(pagerPid)) - before).toBeLessThan(30);
    client.child.stdin?.end();
    expect((await nextEvent('released', 'vm')).vm).toBe('vm');
  });

  test('is not affected by a working set that crosses its regions, or is outside of its RAM', async () => {
    const blocks = 4096;
    const boundary = blocks / 2;
    expect([patternOf(boundary - 1), patternOf(boundary)]).not.toContain(0);
    const workingSet = [boundary - 8, 16, blocks - 4, 16, blocks + 100, 16];
    await serve('vm', await makeBuild(blocks), { workingSet });
    const client = startClient('vm', blocks, 1000, 2);
    expect((await client.results)?.map((result) => result.wrong)).toEqual([0, 0]);
    const { statistics } = await pager.describe('vm');
    expect(statistics.prefetchBytes).toBeGreaterThan(0);
    client.child.stdin?.end();
    expect((await nextEvent('released', 'vm')).vm).toBe('vm');
  });

  test('faults less when its recorded working set is prefetched', async () => {
    const blocks = 4096;
    const build = await makeBuild(blocks);
    const run = async (vm: string, workingSet?: number[]) => {
      const released = nextEvent('released', vm);
      await serve(vm, build, workingSet === undefined ? {} : { workingSet });
      const client = startClient(vm, blocks, 4, 2);
      expect((await client.results)?.map((result) => result.wrong)).toEqual([0, 0]);
      const description = await pager.describe(vm);
      client.child.stdin?.end();
      await released;
      return description;
    };
    const first = await run('first');
    expect(first.workingSet.length).toBeGreaterThan(0);
    const second = await run('second', first.workingSet);
    expect(second.statistics.prefetchBytes).toBeGreaterThan(0);
    const brought = (s: typeof first.statistics) => s.faultBytes - s.zeroPages * BLOCK;
    expect(brought(second.statistics)).toBeLessThanOrEqual(brought(first.statistics));
  });

  test('no longer needs a pager once it is materialised', async () => {
    const blocks = 2048;
    await serve('vm', await makeBuild(blocks));
    const materialised = nextEvent('materialised', 'vm');
    await pager.materialise('vm');
    const client = startClient('vm', blocks, 2000, 2);
    await materialised;
    process.kill(pagerPid, 'SIGKILL');
    await pager.closed;
    expect((await client.results)?.map((result) => result.wrong)).toEqual([0, 0]);
  });
});

describe('a page that cannot be served', () => {
  test('fails its VM at once with the reason, and affects no other', async () => {
    const blocks = 2048;
    const [broken, sound] = [await makeBuild(blocks), await makeBuild(blocks)];
    await serve('broken', broken);
    await serve('sound', sound);
    await truncate(broken.diffPath, 0);
    const failed = nextEvent('failed', 'broken');
    const victim = startClient('broken', blocks, 1000, 2);
    const other = startClient('sound', blocks, 1000, 2);
    expect(await victim.signal).toBe('SIGKILL');
    expect(await failed).toMatchObject({ reason: expect.stringMatching(/is too short/) });
    expect((await other.results)?.map((result) => result.wrong)).toEqual([0, 0]);
    pager.close();
    const { hello } = await attach();
    expect(hello.vms).toContainEqual({
      vm: 'broken',
      state: 'failed',
      reason: expect.stringMatching(/is too short/),
    });
  });

  test.each([
    ['text that is not JSON', 'nonsense', /not JSON/],
    ['no regions', '[]', /not a list of memory regions/],
    [
      'RAM of another size',
      JSON.stringify([{ base_host_virt_addr: 4096, size: 4096, offset: 0 }]),
      /RAM/,
    ],
    [
      'huge pages',
      JSON.stringify([{ base_host_virt_addr: 0, size: 8192, offset: 0, page_size: 2 ** 21 }]),
      /not supported/,
    ],
  ])('a handshake with %s is refused', async (_, message, what) => {
    await serve('vm', await makeBuild(2));
    const failed = nextEvent('failed', 'vm');
    const script = `import { connectUnix, createUserfaultfd, sendWithFd } from '@torpor/linux';
      sendWithFd(connectUnix(process.argv[1]), Buffer.from(process.argv[2]), createUserfaultfd(0));
      process.stdin.resume();`;
    const child = spawn(
      process.execPath,
      ['--input-type=module', '-e', script, join(directory, 'vm'), message],
      { stdio: ['pipe', 'ignore', 'inherit'], cwd: fileURLToPath(new URL('.', import.meta.url)) },
    );
    children.push(child);
    expect(await failed).toMatchObject({ reason: expect.stringMatching(what) });
  });
});

describe('the pager', () => {
  test('outlives its client, and the next one adopts its VMs', async () => {
    const blocks = 2048;
    await serve('vm', await makeBuild(blocks));
    pager.close();
    const client = startClient('vm', blocks, 2000, 2);
    const { started, hello } = await attach();
    expect(started).toBe(false);
    expect(hello.vms.map((vm) => vm.vm)).toEqual(['vm']);
    expect((await client.results)?.map((result) => result.wrong)).toEqual([0, 0]);
    await expect(pager.shutdown()).rejects.toThrow(/still serves 1/);
  });

  test('exits when requested, with all its threads', async () => {
    await serve('vm', await makeBuild(4));
    await pager.stop('vm');
    await pager.shutdown();
    await pager.closed;
    await expect.poll(() => existsSync(`/proc/${pagerPid}`), { timeout: 20_000 }).toBe(false);
  });

  test('refuses a build whose files are missing or damaged, and keeps running', async () => {
    const build = await makeBuild(4);
    await truncate(build.headerPath, 70);
    await expect(serve('vm', build)).rejects.toThrow(/torn/);
    await expect(serve('vm', { ...build, headerPath: '/nonexistent' })).rejects.toThrow(/ENOENT/);
    expect((await pager.describe('vm').catch((error: Error) => error)).toString()).toMatch(
      /not served/,
    );
  });

  test('logs why it released a VM', async () => {
    const build = await makeBuild(4);
    await serve('stopped', build);
    await pager.stop('stopped');

    const killed = nextEvent('released', 'killed');
    await serve('killed', build);
    const client = startClient('killed', 4, 4, 2);
    await client.results;
    client.child.kill('SIGKILL');
    await killed;

    const materialised = nextEvent('released', 'materialised');
    await serve('materialised', build);
    await pager.materialise('materialised');
    startClient('materialised', 4, 4, 2);
    await materialised;

    // Its program execs another: the process stays, and its memory no longer exists. Of 4
    // blocks all are installed by then, of 256 some are missing.
    for (const blocks of [4, 256]) {
      const vm = `replaced-${blocks}`;
      const replaced = nextEvent('released', vm);
      await serve(vm, await makeBuild(blocks));
      const { child, results } = startClient(vm, blocks, 4, 2, 'execute');
      await results;
      await expect.poll(() => readFile(`/proc/${child.pid}/comm`, 'utf8')).toBe('sleep\n');
      await pager.materialise(vm);
      await replaced;
    }

    expect(await releases()).toEqual([
      { vm: 'stopped', cause: 'stopped' },
      { vm: 'killed', cause: 'vmm-exited' },
      { vm: 'materialised', cause: 'materialised' },
      { vm: 'replaced-4', cause: 'memory-unmapped' },
      { vm: 'replaced-256', cause: 'memory-unmapped' },
    ]);
  });

  test('gives up a VM whose VMM connects and sends nothing', async () => {
    const script = `import { setTimeout as delay } from 'node:timers/promises';
      import { connectUnix } from '@torpor/linux';
      process.stdout.write('ready');
      for (let connected = false; !connected; await delay(5)) {
        try { connectUnix(process.argv[1]); connected = true; } catch {}
      }
      process.stdin.resume();`;
    const child = spawn(
      process.execPath,
      ['--input-type=module', '-e', script, join(directory, 'vm')],
      { stdio: ['pipe', 'pipe', 'inherit'], cwd: fileURLToPath(new URL('.', import.meta.url)) },
    );
    children.push(child);
    const signal = new Promise((resolve) => {
      child.once('exit', (_, name) => resolve(name));
    });
    await once(child.stdout, 'data');
    const failed = nextEvent('failed', 'vm');
    await pager.serve({
      vm: 'vm',
      socketPath: join(directory, 'vm'),
      connectTimeoutMs: 1000,
      ...pick(await makeBuild(4)),
    });
    expect(await failed).toMatchObject({
      reason: 'The VMM connected, but sent no userfaultfd in time.',
    });
    expect(await signal).toBe('SIGKILL');
  });

  test('gives up a VM whose VMM does not connect', async () => {
    const failed = nextEvent('failed', 'vm');
    const build = await makeBuild(4);
    await pager.serve({
      vm: 'vm',
      socketPath: join(directory, 'vm'),
      connectTimeoutMs: 50,
      ...pick(build),
    });
    expect(await failed).toMatchObject({ reason: 'No VMM connected in time.' });
  });
});

/** The entries of the pager's log about released VMs. */
async function releases(): Promise<object[]> {
  const lines = (await readFile(join(directory, 'log'), 'utf8')).trim().split('\n');
  return lines
    .map((line) => JSON.parse(line))
    .filter(({ msg }) => msg === 'VM released')
    .map(({ vm, cause }) => ({ vm, cause }));
}

const pick = ({ headerPath, diffPaths }: TestBuild) => ({ headerPath, diffPaths });
