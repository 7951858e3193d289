import { setTimeout as delay } from 'node:timers/promises';
import koffi from 'koffi';
import { libc } from './libc.ts';

const mmap = libc.func(
  'void *mmap(void *address, size_t length, int protection, int flags, int fd, int64_t offset)',
);
const mprotect = libc.func('int mprotect(void *address, size_t length, int protection)');
const munmap = libc.func('int munmap(void *address, size_t length)');
const PROT_READ = 1;
const PROT_WRITE = 2;
const PROT_EXEC = 4;
const MAP_PRIVATE = 2;
const MAP_ANONYMOUS = 0x20;
const PAGE = 4096;

/** `uint64_t f(void)`: lfence; rdtsc; shl rdx, 32; or rax, rdx; ret. */
const RDTSC_FUNCTION = Uint8Array.from([
  0x0f, 0xae, 0xe8, 0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0, 0xc3,
]);
const rdtscType = koffi.proto('uint64_t rdtsc(void)');

/** At this distance the error of a reading (about a microsecond) is 10 parts per million. */
const INTERVAL_MS = 100;
const READINGS = 16;

let measured: Promise<number | undefined> | undefined;

/**
 * Frequency of the processor's time stamp counter in kHz, measured once per
 * process against the monotonic clock, right to about 50 parts per million.
 * Undefined where it cannot be read: not x86-64, or no memory may be executable.
 *
 * /proc/cpuinfo has the momentary frequency of a core, which is something else.
 */
export function tscKhz(): Promise<number | undefined> {
  measured ??= measure();
  return measured;
}

async function measure(): Promise<number | undefined> {
  if (process.arch !== 'x64') return undefined;
  const page: unknown = mmap(
    null,
    PAGE,
    PROT_READ | PROT_WRITE,
    MAP_PRIVATE | MAP_ANONYMOUS,
    -1,
    0,
  );
  // MAP_FAILED is -1.
  if (koffi.address(page) === 0xffffffffffffffffn) return undefined;
  try {
    new Uint8Array(koffi.view(page, RDTSC_FUNCTION.length)).set(RDTSC_FUNCTION);
    // Never writable and executable at once. The page is private and contains only the constant
    // above.
    if (mprotect(page, PAGE, PROT_READ | PROT_EXEC) !== 0) return undefined;
    const first = read(page);
    await delay(INTERVAL_MS);
    const second = read(page);
    const ticks = Number(second.ticks - first.ticks);
    return Math.round((ticks * 1e6) / Number(second.timeNs - first.timeNs));
  } finally {
    munmap(page, PAGE);
  }
}

/** Both clocks at one moment: the reading that was interrupted least. */
function read(page: unknown): { ticks: bigint; timeNs: bigint } {
  let best = { ticks: 0n, timeNs: 0n, spreadNs: 1n << 62n };
  for (let count = 0; count < READINGS; count++) {
    const before = process.hrtime.bigint();
    const ticks = BigInt(koffi.call(page, rdtscType) as number | bigint);
    const spreadNs = process.hrtime.bigint() - before;
    if (spreadNs < best.spreadNs) best = { ticks, timeNs: before + spreadNs / 2n, spreadNs };
  }
  return best;
}
