import { type FileLock, tryLockFile } from '@torpor/linux';
import { TorporError } from '@torpor/protocol';

/**
 * Makes this process the only host agent of a data directory. The lock is the kernel's
 * (flock(2)), so that of a killed agent is free at once; the pid in the file is informational.
 * Throws `conflict` if another agent has the lock.
 */
export async function lockDataDirectory(lockFile: string): Promise<FileLock> {
  const lock = await tryLockFile(lockFile);
  if (lock === undefined) {
    throw new TorporError('conflict', `Another Torpor server is using this data directory.`, {
      remedy: `Stop it first (its pid is in ${lockFile}), or use another data directory (--data-dir).`,
    });
  }
  await lock.file.truncate(0);
  await lock.file.write(`${process.pid}\n`);
  return lock;
}
