import { constants } from 'node:os';
import { checked, libc, SystemError } from './libc.ts';

/** A path, whose symbolic links are followed, or an open file descriptor. */
export type XattrTarget = string | number;

const getxattr = libc.func(
  'intptr_t getxattr(str path, str name, _Out_ uint8_t *value, size_t size)',
);
const fgetxattr = libc.func(
  'intptr_t fgetxattr(int fd, str name, _Out_ uint8_t *value, size_t size)',
);
const setxattr = libc.func(
  'int setxattr(str path, str name, const uint8_t *value, size_t size, int flags)',
);
const fsetxattr = libc.func(
  'int fsetxattr(int fd, str name, const uint8_t *value, size_t size, int flags)',
);
const listxattr = libc.func('intptr_t listxattr(str path, _Out_ uint8_t *list, size_t size)');
const flistxattr = libc.func('intptr_t flistxattr(int fd, _Out_ uint8_t *list, size_t size)');
const removexattr = libc.func('int removexattr(str path, str name)');
const fremovexattr = libc.func('int fremovexattr(int fd, str name)');

/** XATTR_SIZE_MAX and XATTR_LIST_MAX of linux/limits.h. */
const MAX_BYTES = 64 * 1024;
const scratch = Buffer.alloc(MAX_BYTES);

/**
 * The value of an extended attribute (xattr(7)), or undefined if the file has no
 * such attribute. Throws SystemError: `ENOTSUP` if the file system keeps none,
 * `ENOENT`, `EACCES`, …
 */
export function getXattr(target: XattrTarget, name: string): Buffer | undefined {
  const length = Number(
    typeof target === 'number'
      ? fgetxattr(target, name, scratch, MAX_BYTES)
      : getxattr(target, name, scratch, MAX_BYTES),
  );
  try {
    return Buffer.from(scratch.subarray(0, checked('getxattr', length)));
  } catch (error) {
    if (isErrno(error, constants.errno.ENODATA)) return undefined;
    throw error;
  }
}

/** The names of all extended attributes of a file. Throws SystemError as {@link getXattr}. */
export function listXattrs(target: XattrTarget): string[] {
  const length = Number(
    typeof target === 'number'
      ? flistxattr(target, scratch, MAX_BYTES)
      : listxattr(target, scratch, MAX_BYTES),
  );
  const names = scratch.toString('utf8', 0, checked('listxattr', length));
  return names.split('\0').filter((name) => name !== '');
}

/**
 * Creates or replaces an extended attribute. Throws SystemError: `ENOTSUP`,
 * `ENOSPC` when the file system has no room for it, `ERANGE` for a name of more
 * than 255 bytes, …
 */
export function setXattr(target: XattrTarget, name: string, value: Uint8Array | string): void {
  const bytes = Buffer.from(value);
  checked(
    'setxattr',
    typeof target === 'number'
      ? fsetxattr(target, name, bytes, bytes.length, 0)
      : setxattr(target, name, bytes, bytes.length, 0),
  );
}

/** Removes an extended attribute; one that does not exist is no error. */
export function removeXattr(target: XattrTarget, name: string): void {
  try {
    checked(
      'removexattr',
      typeof target === 'number' ? fremovexattr(target, name) : removexattr(target, name),
    );
  } catch (error) {
    if (!isErrno(error, constants.errno.ENODATA)) throw error;
  }
}

function isErrno(error: unknown, errno: number): boolean {
  return error instanceof SystemError && error.errno === errno;
}
