import { mkdtemp, rm } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { BLOCK_SIZE } from '@torpor/builds';
import { runCommand } from '@torpor/linux';
import { connectPager, type PagerClient } from '@torpor/pager';
import type { Benchmark, Cost } from '../harness/benchmark.ts';
import { interleave } from '../harness/interleave.ts';
import type { Measurements } from '../harness/measurements.ts';
import { Server } from '../support/child.ts';
import { compile } from '../support/compile.ts';
import { type MemoryBuild, writeMemoryBuild } from './test-builds.ts';

const CLIENT = fileURLToPath(new URL('./client.c', import.meta.url));
const HANDLER = fileURLToPath(new URL('./handler.c', import.meta.url));

/** The pager's fault-around window; blocks. */
const WINDOW = 16;
const FAULT_STRIDE = 2 * WINDOW;
const CLIENT_TIMEOUT_MS = 60_000;
const CLIENT_CPU = '0';
const SERVER_CPU = availableParallelism() > 1 ? '1' : '0';

export const pageFaults: Benchmark = {
  name: 'page-faults',
  title: 'Serving page faults: the pager, and a minimal handler in C',
  method:
    'The same client process, written in C: it maps shared memory, registers it, hands its userfaultfd over, and ' +
    'touches every 32nd page in a random order, timing each touch. It is served from the page cache by Torpor’s pager ' +
    '(TypeScript on Node) and by a handler in C that can do nothing but poll, read, pread and UFFDIO_COPY, by turns, a fresh ' +
    'client each time. Client and server each have a processor of their own, as a vCPU and the pager have: whether the scheduler puts both on one would ' +
    'otherwise decide, since then waking the other costs half as much. Once with a single page for each fault, once with the 64 KiB that the pager brings by default. ' +
    'Prefetch is the time from the handshake until the last of all pages is there, in pieces of 1 MiB; its ratio is of bandwidths.',
  series: {
    'page-torpor': { title: '4 KiB for a fault, pager', unit: 'µs' },
    'page-c': { title: '4 KiB for a fault, C handler', unit: 'µs' },
    'window-torpor': { title: '64 KiB for a fault, pager', unit: 'µs' },
    'window-c': { title: '64 KiB for a fault, C handler', unit: 'µs' },
    'prefetch-torpor': { title: 'prefetch, pager', unit: 'MiB/s' },
    'prefetch-c': { title: 'prefetch, C handler', unit: 'MiB/s' },
  },
  comparisons: [
    {
      title: 'a fault of 4 KiB, pager ÷ C',
      of: 'page-torpor',
      to: 'page-c',
      aim: { atMost: 1.3 },
    },
    {
      title: 'a fault of 64 KiB, pager ÷ C',
      of: 'window-torpor',
      to: 'window-c',
      aim: { atMost: 1.3 },
    },
    {
      title: 'prefetch bandwidth, pager ÷ C',
      of: 'prefetch-torpor',
      to: 'prefetch-c',
      aim: { atLeast: 0.8 },
    },
  ],
  costs: (measured) => [
    { title: 'A fault of 4 KiB at the pager', costs: faultCosts(measured, 'page') },
    { title: 'A fault of 64 KiB at the pager', costs: faultCosts(measured, 'window') },
  ],
  async run(context) {
    const blocks = context.quick ? 2048 : 16_384;
    const prefetchBlocks = context.quick ? 8192 : 32_768;
    await using stack = new AsyncDisposableStack();
    const directory = await mkdtemp(join(tmpdir(), 'torpor-faults-'));
    stack.defer(() => rm(directory, { recursive: true, force: true }));
    context.progress('compiling the client and the handler');
    const client = await compile(CLIENT, directory, 'client');
    const handler = await compile(HANDLER, directory, 'handler');
    const dense = await writeMemoryBuild(directory, 'dense', blocks, () => true);
    const isOdd = (block: number) => block % 2 === 1;
    // No fault has a stored neighbour that would be installed with it.
    const alternating = await writeMemoryBuild(directory, 'alternating', blocks, isOdd);
    const large = await writeMemoryBuild(directory, 'large', prefetchBlocks, () => true);
    const c = async (name: string, { diffPath }: MemoryBuild, ...args: string[]) => {
      const socket = join(directory, name);
      stack.use(
        await Server.start('taskset', ['-c', SERVER_CPU, handler, socket, diffPath, ...args]),
      );
      return socket;
    };
    const pageSocket = await c('c-page', dense, '1');
    const windowSocket = await c('c-window', dense, String(WINDOW));
    const prefetchSocket = await c('c-prefetch', large, String(WINDOW), 'prefetch');
    const pager = stack.use(await TestPager.start(directory));

    const faults = (socket: string) =>
      runClient(client, [socket, String(blocks), 'faults', String(FAULT_STRIDE), '1']);
    const nanosecondsToLast = (socket: string) =>
      runClient(client, [socket, String(prefetchBlocks), 'prefetch']);
    const bandwidth = (nanoseconds: number[]) =>
      nanoseconds.map((time) => (prefetchBlocks * BLOCK_SIZE) / 2 ** 20 / (time / 1e9));
    const microseconds = (nanoseconds: number[]) => nanoseconds.map((time) => time / 1000);
    const everything = Array.from({ length: prefetchBlocks / WINDOW }, (_, at) => [
      at * WINDOW,
      WINDOW,
    ]).flat();

    await interleave(context, context.quick ? 2 : 12, {
      'page-torpor': async () => microseconds(await pager.serve(alternating, [], faults)),
      'page-c': async () => microseconds(await faults(pageSocket)),
      'window-torpor': async () => microseconds(await pager.serve(dense, [], faults)),
      'window-c': async () => microseconds(await faults(windowSocket)),
      'prefetch-torpor': async () =>
        bandwidth(await pager.serve(large, everything, nanosecondsToLast)),
      'prefetch-c': async () => bandwidth(await nanosecondsToLast(prefetchSocket)),
    });
  },
};

function faultCosts(measured: Measurements, kind: string): Cost[] {
  const c = measured.median(`${kind}-c`);
  return [
    {
      title: 'the kernel: reporting the fault, reading, copying, waking',
      value: c,
      unit: 'µs',
      how: 'the C handler, which does nothing else',
    },
    {
      title: 'the pager’s own loop',
      value: Math.max(0, measured.median(`${kind}-torpor`) - c),
      unit: 'µs',
      how: 'pager − C handler',
    },
  ];
}

/** A pager for the benchmark. */
class TestPager implements AsyncDisposable {
  readonly #client: PagerClient;
  readonly #directory: string;
  #served = 0;

  private constructor(client: PagerClient, directory: string) {
    this.#client = client;
    this.#directory = directory;
  }

  static async start(directory: string): Promise<TestPager> {
    const { client, hello } = await connectPager({
      socketPath: join(directory, 'pager'),
      logPath: join(directory, 'pager.log'),
      threads: 1,
    });
    await runCommand('taskset', [
      '--all-tasks',
      '--cpu-list',
      '--pid',
      SERVER_CPU,
      String(hello.pid),
    ]);
    return new TestPager(client, directory);
  }

  /** Runs a client that is served from a build, with its working set prefetched. */
  async serve<T>(
    build: MemoryBuild,
    workingSet: readonly number[],
    client: (socket: string) => Promise<T>,
  ): Promise<T> {
    const vm = `client-${this.#served++}`;
    const socketPath = join(this.#directory, vm);
    const { headerPath, diffPaths } = build;
    await this.#client.serve({ vm, socketPath, headerPath, diffPaths, workingSet });
    try {
      return await client(socketPath);
    } finally {
      await this.#client.stop(vm);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#client.shutdown();
    await this.#client.closed;
  }
}

/** Runs the client and returns its output: nanoseconds. */
async function runClient(program: string, args: readonly string[]): Promise<number[]> {
  const command = ['-c', CLIENT_CPU, program, ...args];
  const printed = await runCommand('taskset', command, { timeoutMs: CLIENT_TIMEOUT_MS });
  const result: number | number[] = JSON.parse(printed);
  return typeof result === 'number' ? [result] : result;
}
