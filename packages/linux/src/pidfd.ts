import { constants } from 'node:os';
import koffi from 'koffi';
import { checked, libc } from './libc.ts';

// System call numbers are the same on x86-64 and arm64.
const SYS_PIDFD_SEND_SIGNAL = 424;
const SYS_PIDFD_OPEN = 434;

const pidfdOpen = libc.func('long syscall(long number, int pid, unsigned int flags)');
const pidfdSendSignal = libc.func(
  'long syscall(long number, int pidfd, int signal, void *info, unsigned int flags)',
);

/**
 * A descriptor that stands for a process and never for a later one with the same
 * pid; it becomes readable when the process ends (pidfd_open(2)). The caller closes it.
 */
export function openPidfd(pid: number): number {
  return checked('pidfd_open', Number(pidfdOpen(SYS_PIDFD_OPEN, pid, 0)));
}

/** Sends a signal by number; answers whether the process was still there. Throws SystemError (EPERM). */
export function signalPidfd(pidfd: number, signal: number): boolean {
  const result = Number(pidfdSendSignal(SYS_PIDFD_SEND_SIGNAL, pidfd, signal, null, 0));
  if (result < 0 && koffi.errno() === constants.errno.ESRCH) return false;
  checked('pidfd_send_signal', result);
  return true;
}

/** Ends the process at once; nothing happens if it has ended. */
export function killPidfd(pidfd: number): void {
  signalPidfd(pidfd, constants.signals.SIGKILL);
}
