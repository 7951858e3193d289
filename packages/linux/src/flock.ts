import { type FileHandle, open } from 'node:fs/promises';
import { constants } from 'node:os';
import { checked, libc, SystemError } from './libc.ts';

const flock = libc.func('int flock(int fd, int operation)');

const LOCK_EX = 2;
const LOCK_NB = 4;

/** An exclusive lock on a file; released when it is disposed of or the process exits. */
export interface FileLock extends AsyncDisposable {
  readonly file: FileHandle;
}

/**
 * Takes the exclusive lock of a file (flock(2)), which is created with mode 0600
 * if it does not exist. Returns undefined if another open file holds the lock. The
 * kernel releases the lock with the last descriptor, so there are no stale locks:
 * Node opens files with O_CLOEXEC, and programs started from here do not inherit it.
 */
export async function tryLockFile(path: string): Promise<FileLock | undefined> {
  const file = await open(path, 'a+', 0o600);
  try {
    checked('flock', flock(file.fd, LOCK_EX | LOCK_NB));
  } catch (error) {
    await file.close();
    if (error instanceof SystemError && error.errno === constants.errno.EWOULDBLOCK)
      return undefined;
    throw error;
  }
  return { file, [Symbol.asyncDispose]: () => file.close() };
}
