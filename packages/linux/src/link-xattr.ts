import { constants } from 'node:os';
import { cString } from './c-string.ts';
import { checked, libc, SystemError } from './libc.ts';

/*
 * Extended attributes (xattr(7)) of what a path names, be it a symbolic link. Paths are bytes,
 * as a file's name need not be UTF-8, and a name of an attribute has a character for each byte.
 */

const llistxattr = libc.func(
  'intptr_t llistxattr(const uint8_t *path, _Out_ uint8_t *list, size_t size)',
);
const lgetxattr = libc.func(
  'intptr_t lgetxattr(const uint8_t *path, const uint8_t *name, _Out_ uint8_t *value, size_t size)',
);
const lsetxattr = libc.func(
  'int lsetxattr(const uint8_t *path, const uint8_t *name, const uint8_t *value, size_t size, int flags)',
);

/** XATTR_SIZE_MAX and XATTR_LIST_MAX of linux/limits.h. */
const MAX_BYTES = 64 * 1024;
const scratch = Buffer.alloc(MAX_BYTES);

/** The names of all extended attributes; none where the file system keeps none. Throws SystemError. */
export function linkXattrNames(path: Buffer): string[] {
  const length = Number(llistxattr(cString(path), scratch, MAX_BYTES));
  try {
    const names = scratch.toString('latin1', 0, checked('llistxattr', length));
    return names.split('\0').filter((name) => name !== '');
  } catch (error) {
    if (error instanceof SystemError && error.errno === constants.errno.ENOTSUP) return [];
    throw error;
  }
}

/** Throws SystemError: `ENODATA` if there is no such attribute, … */
export function linkXattr(path: Buffer, name: string): Buffer {
  const length = Number(lgetxattr(cString(path), nameBytes(name), scratch, MAX_BYTES));
  return Buffer.from(scratch.subarray(0, checked('lgetxattr', length)));
}

/** Creates or replaces an attribute. Throws SystemError: `ENOTSUP`, `EPERM`, `ENOSPC`, … */
export function setLinkXattr(path: Buffer, name: string, value: Buffer): void {
  checked('lsetxattr', lsetxattr(cString(path), nameBytes(name), value, value.length, 0));
}

function nameBytes(name: string): Buffer {
  return cString(Buffer.from(name, 'latin1'));
}
