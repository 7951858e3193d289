import { fileURLToPath } from 'node:url';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import {
  Arena,
  bytesAt,
  closeFd,
  connectUnix,
  createUserfaultfd,
  discardPages,
  sendWithFd,
  UFFD_FEATURE_EVENT_REMOVE,
  uffdRegister,
} from '@torpor/linux';

/**
 * Acts as a VMM: it maps RAM in two regions, passes its userfaultfd to the pager, and
 * touches pages from several threads, and releases some in between. Every byte read is
 * compared with the pattern of the build, or with zero.
 *
 *   node client-process.ts SOCKET BLOCKS FAULTS THREADS [hang-up | execute]     (THREADS is even)
 *
 * With `hang-up` it closes its connection after the handshake. It prints one JSON line when it is
 * done, then waits for the end of its standard input; with `execute` it execs sleep(1).
 */

export const BLOCK = 4096;

/** The pattern of the build: every third block is zero, others are filled with this byte. */
export function patternOf(block: number): number {
  return block % 3 === 0 ? 0 : (block % 251) + 1;
}

interface ThreadData {
  readonly address: number;
  readonly firstBlock: number;
  readonly blocks: number;
  readonly faults: number;
  readonly seed: number;
}

interface ThreadResult {
  readonly faults: number;
  readonly wrong: number;
}

/** Touches random blocks of this thread's own part of RAM; releases half of those that are present. */
function touchPages(data: ThreadData): ThreadResult {
  const memory = bytesAt(data.address, data.blocks * BLOCK);
  const EXPECT_PATTERN = 0;
  const EXPECT_ZERO = 1;
  const expected = new Uint8Array(data.blocks);
  let state = data.seed;
  const random = (bound: number) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * bound);
  };
  let wrong = 0;
  for (let fault = 0; fault < data.faults; fault++) {
    const block = random(data.blocks);
    const value = expected[block] === EXPECT_ZERO ? 0 : patternOf(data.firstBlock + block);
    if (memory[block * BLOCK + random(BLOCK)] !== value) wrong++;
    // A released page is zero from now on, and faults at the next touch.
    if (expected[block] === EXPECT_PATTERN ? fault % 2 === 0 : true) {
      discardPages(data.address + block * BLOCK, BLOCK);
      expected[block] = EXPECT_ZERO;
    }
  }
  return { faults: data.faults, wrong };
}

async function main(): Promise<void> {
  const [socket = '', blocks = 0, faults = 0, threads = 1] = process.argv
    .slice(2)
    .map((word, index) => (index === 0 ? word : Number(word))) as [string, number, number, number];
  const low = new Arena((blocks / 2) * BLOCK);
  const high = new Arena((blocks / 2) * BLOCK);
  const uffd = createUserfaultfd(UFFD_FEATURE_EVENT_REMOVE);
  const regions = [low, high].map((region, index) => {
    uffdRegister(uffd, region.address, region.bytes.length);
    return {
      base_host_virt_addr: region.address,
      size: region.bytes.length,
      offset: index * region.bytes.length,
      page_size: BLOCK,
      page_size_kib: BLOCK,
    };
  });
  const connection = connectUnix(socket);
  sendWithFd(connection, Buffer.from(JSON.stringify(regions)), uffd);
  if (process.argv[6] === 'hang-up') closeFd(connection);
  const share = blocks / threads;
  const results = await Promise.all(
    Array.from({ length: threads }, (_, thread) => {
      const firstBlock = thread * share;
      const region = firstBlock < blocks / 2 ? low : high;
      const address = region.address + (firstBlock % (blocks / 2)) * BLOCK;
      return runThread({
        address,
        firstBlock,
        blocks: share,
        faults: faults / threads,
        seed: thread + 1,
      });
    }),
  );
  process.stdout.write(`${JSON.stringify(results)}\n`);
  if (process.argv[6] === 'execute') process.execve?.('/bin/sleep', ['sleep', '600']);
  process.stdin.resume();
}

function runThread(data: ThreadData): Promise<ThreadResult> {
  const worker = new Worker(fileURLToPath(import.meta.url), { workerData: data });
  return new Promise((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
  });
}

if (!isMainThread && workerData?.address !== undefined) {
  parentPort?.postMessage(touchPages(workerData));
} else if (process.argv[1] === fileURLToPath(import.meta.url)) await main();
