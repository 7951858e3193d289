import { readFile, readlink } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { TorporError } from '@torpor/protocol';

/** The parts of a data directory's postmaster.pid that we need (PostgreSQL's miscadmin.h). */
export interface PostmasterFile {
  readonly pid: number;
  readonly socketDirectory: string;
  readonly status: string;
}

export async function readPostmasterFile(
  dataDirectory: string,
): Promise<PostmasterFile | undefined> {
  const content = await readFile(join(dataDirectory, 'postmaster.pid'), 'utf8').catch(() => '');
  const lines = content.split('\n').map((line) => line.trim());
  const pid = Number(lines[0]);
  if (!Number.isSafeInteger(pid) || pid <= 0) return undefined;
  return { pid, socketDirectory: lines[4] ?? '', status: lines[7] ?? '' };
}

/**
 * Whether `pid` is the postmaster of this data directory, and not another process that
 * reuses the pid: the data directory is PostgreSQL's working directory.
 */
export async function isPostmasterOf(pid: number, dataDirectory: string): Promise<boolean> {
  try {
    const [program, directory] = await Promise.all([
      readlink(`/proc/${pid}/exe`),
      readlink(`/proc/${pid}/cwd`),
    ]);
    return (
      basename(program.replace(/ \(deleted\)$/, '')) === 'postgres' && directory === dataDirectory
    );
  } catch {
    return false;
  }
}

const FAST_SHUTDOWN_MS = 15_000;
const IMMEDIATE_SHUTDOWN_MS = 10_000;

/**
 * Stops a postmaster: fast shutdown (SIGINT), after 15 s immediate shutdown
 * (SIGQUIT), after 10 s more SIGKILL. The write-ahead log preserves all
 * commits in every case. Resolves when the process has exited.
 */
export async function stopPostmaster(pid: number, dataDirectory: string): Promise<void> {
  for (const [signal, timeoutMs] of [
    ['SIGINT', FAST_SHUTDOWN_MS],
    ['SIGQUIT', IMMEDIATE_SHUTDOWN_MS],
    ['SIGKILL', IMMEDIATE_SHUTDOWN_MS],
  ] as const) {
    if (!(await isPostmasterOf(pid, dataDirectory))) return;
    try {
      process.kill(pid, signal);
    } catch {
      return;
    }
    const deadline = Date.now() + timeoutMs;
    while (Date.now() < deadline) {
      if (!(await isPostmasterOf(pid, dataDirectory))) return;
      await delay(20);
    }
  }
  throw new TorporError('host_setup', `The database server (pid ${pid}) cannot be stopped.`, {
    remedy: `Find out why process ${pid} hangs; its data directory is ${dataDirectory}.`,
  });
}
