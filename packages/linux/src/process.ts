import { readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { SystemError } from './libc.ts';
import { openPidfd, signalPidfd } from './pidfd.ts';
import { closeFd } from './poll.ts';

/** A process that cannot be mistaken for a later one with the same pid. */
export interface ProcessIdentity {
  readonly pid: number;
  /** Field 22 of /proc/PID/stat, proc_pid_stat(5). */
  readonly startTimeTicks: string;
}

/** The identity of the process that has this pid now; undefined if there is none, or only a zombie. */
export function identifyProcess(pid: number): ProcessIdentity | undefined {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  } catch {
    return undefined;
  }
  // The second field is the program's name in parentheses; it may hold spaces and parentheses itself.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const [state] = fields;
  const startTimeTicks = fields[19];
  if (startTimeTicks === undefined || state === 'Z' || state === 'X') {
    return undefined;
  }
  return { pid, startTimeTicks };
}

/** Whether this very process still runs; a zombie does not. */
export function isProcessAlive(identity: ProcessIdentity): boolean {
  return identifyProcess(identity.pid)?.startTimeTicks === identity.startTimeTicks;
}

/**
 * Sends a signal to this very process and returns whether it was there. The pid
 * is pinned by a pidfd before the start time is compared, so a recycled pid is
 * never hit. Throws {@link SystemError} (EPERM), pidfd_send_signal(2).
 */
export function signalProcess(identity: ProcessIdentity, signal: NodeJS.Signals): boolean {
  let pidfd: number;
  try {
    pidfd = openPidfd(identity.pid);
  } catch (error) {
    if (error instanceof SystemError && error.code === 'ESRCH') return false;
    throw error;
  }
  try {
    return isProcessAlive(identity) && signalPidfd(pidfd, constants.signals[signal]);
  } finally {
    closeFd(pidfd);
  }
}
