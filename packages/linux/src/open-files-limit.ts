import { checked, libc } from './libc.ts';

/** Of getrlimit(2) on every architecture that Node runs on. */
const RLIMIT_NOFILE = 7;

const prlimit = libc.func(
  'int prlimit(int pid, int resource, const uint64_t *limit, _Out_ uint64_t *old)',
);

/**
 * Lowers the soft limit of open files of this process, and so of programs that it starts
 * from now on, to `limit` where it is higher; the hard limit stays. Node raises the soft one to the hard one when
 * it starts, and programs that close every descriptor up to it would then take long.
 * Throws SystemError.
 */
export function lowerOpenFilesLimit(limit: number): void {
  const current = new BigUint64Array(2);
  checked('prlimit', prlimit(0, RLIMIT_NOFILE, null, current));
  const [soft = 0n, hard = 0n] = current;
  if (soft <= BigInt(limit)) return;
  const lowered = BigUint64Array.of(BigInt(limit), hard);
  checked('prlimit', prlimit(0, RLIMIT_NOFILE, lowered, null));
}
