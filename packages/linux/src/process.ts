import { readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { SystemError } from './libc.ts';
import { exitFromStatus, openPidfd, type ProcessExit, signalPidfd } from './pidfd.ts';
import { closeFd } from './poll.ts';

/** A process that cannot be mistaken for a later one with the same pid. */
export interface ProcessIdentity {
  readonly pid: number;
  /** Field 22 of /proc/PID/stat, proc_pid_stat(5). */
  readonly startTimeTicks: string;
}

/** The identity of the process that has this pid now; undefined if there is none, or only a zombie. */
export function identifyProcess(pid: number): ProcessIdentity | undefined {
  const stat = readStat(pid);
  if (stat === undefined || stat.hasExited) return undefined;
  return { pid, startTimeTicks: stat.startTimeTicks };
}

/** Whether this very process still exists and is not a zombie. */
export function isProcessAlive(identity: ProcessIdentity): boolean {
  return identifyProcess(identity.pid)?.startTimeTicks === identity.startTimeTicks;
}

/**
 * How this very process exited, if that was by a signal or a failure and its parent has not
 * been notified yet: field 52 of /proc/PID/stat. Undefined otherwise, also where we may not
 * read that field, which looks like a success; then {@link exitOfPidfd} may know.
 */
export function exitOfZombie(identity: ProcessIdentity): ProcessExit | undefined {
  const stat = readStat(identity.pid);
  if (!stat?.hasExited || stat.startTimeTicks !== identity.startTimeTicks) return undefined;
  return stat.exitStatus === 0 ? undefined : exitFromStatus(stat.exitStatus);
}

interface ProcessStat {
  readonly hasExited: boolean;
  readonly startTimeTicks: string;
  /** As wait(2) gives it; 0 where it cannot be read, too. */
  readonly exitStatus: number;
}

/** The fields of proc_pid_stat(5) that are used here; undefined if there is no such process. */
function readStat(pid: number): ProcessStat | undefined {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  } catch {
    return undefined;
  }
  // The second field is the program's name in parentheses; it may contain spaces and
  // parentheses itself.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const [state] = fields;
  const startTimeTicks = fields[19];
  if (startTimeTicks === undefined) return undefined;
  const hasExited = state === 'Z' || state === 'X';
  return { hasExited, startTimeTicks, exitStatus: Number(fields[49]) };
}

/**
 * Sends a signal to this very process and returns whether it existed. The pid is pinned by a
 * pidfd before the start time is compared, so a recycled pid is never hit. Throws {@link
 * SystemError} (EPERM), pidfd_send_signal(2).
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
