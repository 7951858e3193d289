import { constants } from 'node:os';
import { checked, libc, SystemError } from './libc.ts';

const fallocate = libc.func('int fallocate(int fd, int mode, int64_t offset, int64_t len)');

const FALLOC_FL_KEEP_SIZE = 1;

/**
 * Reserves the disk blocks of a file's first `bytes` bytes without changing its
 * size or contents (fallocate(2)), so that writing them cannot run out of space.
 * Returns false where the file system cannot reserve. Throws SystemError: `ENOSPC`,
 * `EDQUOT`, `EFBIG`, …
 */
export function reserveBlocks(fd: number, bytes: number): boolean {
  if (bytes === 0) return true;
  try {
    checked('fallocate', fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, bytes));
    return true;
  } catch (error) {
    if (error instanceof SystemError && UNSUPPORTED.has(error.errno)) return false;
    throw error;
  }
}

/** EINVAL and ENODEV: not a regular file of a disk file system, e.g. one of proc. */
const UNSUPPORTED = new Set<number>([
  constants.errno.EOPNOTSUPP,
  constants.errno.ENOSYS,
  constants.errno.EINVAL,
  constants.errno.ENODEV,
]);
