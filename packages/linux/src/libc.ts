import { constants } from 'node:os';
import koffi from 'koffi';

/** glibc; every foreign function of this package is looked up here. */
export const libc = koffi.load('libc.so.6');

/** Of two names for one number the first is used, as in Node: EAGAIN, not EWOULDBLOCK. */
const ERRNO_NAMES = new Map<number, string>(
  Object.entries(constants.errno)
    .reverse()
    .map(([name, value]) => [value, name]),
);

/** A system call that failed. `code` is the errno's name, as in Node's own errors. */
export class SystemError extends Error {
  override readonly name = 'SystemError';
  readonly code: string;
  readonly errno: number;
  readonly syscall: string;

  constructor(syscall: string, errno: number) {
    const code = ERRNO_NAMES.get(errno) ?? `E${errno}`;
    super(`${syscall}: ${code}`);
    this.code = code;
    this.errno = errno;
    this.syscall = syscall;
  }
}

/**
 * Returns the result of a foreign call, or throws the {@link SystemError} that
 * errno names if it is negative. To be called right after the foreign call: errno
 * does not survive another one.
 */
export function checked(syscall: string, result: number): number {
  if (result < 0) throw new SystemError(syscall, koffi.errno());
  return result;
}
