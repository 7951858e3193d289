import { setTimeout as delay } from 'node:timers/promises';
import { type FileLock, tryLockFile } from '@torpor/linux';

/** flock(2) without LOCK_NB would block a thread for as long as the other builder works. */
const RETRY_INTERVAL_MS = 100;

export interface WaitForLockOptions {
  /** Aborts the wait, with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
  /** Called once, if another process or task has the lock. */
  readonly onWait?: (() => void) | undefined;
}

/** Takes the exclusive lock of a file, waiting while another process or task has it. */
export async function waitForLock(
  path: string,
  { signal, onWait }: WaitForLockOptions = {},
): Promise<FileLock> {
  let lock = await tryLockFile(path);
  if (lock === undefined) onWait?.();
  while (lock === undefined) {
    signal?.throwIfAborted();
    await delay(RETRY_INTERVAL_MS);
    lock = await tryLockFile(path);
  }
  return lock;
}
