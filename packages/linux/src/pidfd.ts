import { constants } from 'node:os';
import koffi from 'koffi';
import { checked, libc, SystemError } from './libc.ts';

// System call numbers are the same on x86-64 and arm64.
const SYS_PIDFD_SEND_SIGNAL = 424;
const SYS_PIDFD_OPEN = 434;

// _IOWR(0xFF, 11, struct pidfd_info) of linux/pidfd.h in its first version, which later kernels
// take too.
const INFO_BYTES = 64;
const PIDFD_GET_INFO = 0xc000_ff0b + INFO_BYTES * 2 ** 16;
const PIDFD_INFO_EXIT = 1n << 3n;
const EXIT_CODE_OFFSET = 60;
/** The errno of kernels before 6.13, which do not know the request. */
const TOO_OLD: ReadonlySet<number> = new Set([constants.errno.ENOTTY, constants.errno.EINVAL]);

const SIGNAL_NAMES = new Map(
  Object.entries(constants.signals).map(([name, number]) => [number, name]),
);

const ioctl = libc.func('int ioctl(int fd, unsigned long request, void *argument)');
const pidfdOpen = libc.func('long syscall(long number, int pid, unsigned int flags)');
const pidfdSendSignal = libc.func(
  'long syscall(long number, int pidfd, int signal, void *info, unsigned int flags)',
);

/**
 * A descriptor that refers to a process and never to a later one with the same pid; it becomes
 * readable when the process exits (pidfd_open(2)). The caller closes it.
 */
export function openPidfd(pid: number): number {
  return checked('pidfd_open', Number(pidfdOpen(SYS_PIDFD_OPEN, pid, 0)));
}

/** Sends a signal by number; returns whether the process still existed. Throws SystemError (EPERM). */
export function signalPidfd(pidfd: number, signal: number): boolean {
  const result = Number(pidfdSendSignal(SYS_PIDFD_SEND_SIGNAL, pidfd, signal, null, 0));
  if (result < 0 && koffi.errno() === constants.errno.ESRCH) return false;
  checked('pidfd_send_signal', result);
  return true;
}

/** Kills the process; nothing happens if it has exited. */
export function killPidfd(pidfd: number): void {
  signalPidfd(pidfd, constants.signals.SIGKILL);
}

/** How a process exited: with a status, or killed by a signal. */
export interface ProcessExit {
  readonly exitCode?: number;
  /** For example `SIGKILL`. */
  readonly signal?: string;
}

/**
 * How the process of a pidfd exited, which need not have been a child of this process; `pending` while
 * it runs or its parent has not been notified of its exit, and forever on kernels that know the
 * request but not this field (6.13, 6.14); undefined on older ones. See PIDFD_INFO_EXIT in
 * linux/pidfd.h.
 */
export function exitOfPidfd(pidfd: number): ProcessExit | 'pending' | undefined {
  const info = Buffer.alloc(INFO_BYTES);
  info.writeBigUInt64LE(PIDFD_INFO_EXIT);
  if (Number(ioctl(pidfd, PIDFD_GET_INFO, info)) < 0) {
    const errno = koffi.errno();
    if (errno === constants.errno.ESRCH) return 'pending';
    if (TOO_OLD.has(errno)) return undefined;
    throw new SystemError('ioctl PIDFD_GET_INFO', errno);
  }
  if ((info.readBigUInt64LE() & PIDFD_INFO_EXIT) === 0n) return 'pending';
  return exitFromStatus(info.readInt32LE(EXIT_CODE_OFFSET));
}

/** Decodes a status of wait(2) of a process that has exited. */
export function exitFromStatus(status: number): ProcessExit {
  const signal = status & 0x7f;
  if (signal === 0) return { exitCode: (status >> 8) & 0xff };
  return { signal: SIGNAL_NAMES.get(signal) ?? `signal ${signal}` };
}
