import { constants } from 'node:os';
import { checked, libc, SystemError } from '../libc.ts';

/*
 * What Node's own calls cannot do: times to the nanosecond, device nodes and FIFOs, and
 * extended attributes. Paths are bytes, as a file's name need not be UTF-8; none of these
 * calls follows a symbolic link in the last component.
 */

const AT_FDCWD = -100;
const AT_SYMLINK_NOFOLLOW = 0x100;
const UTIME_OMIT = 0x3ffffffen;

const utimensat = libc.func(
  'int utimensat(int dirfd, const uint8_t *path, const int64_t *times, int flags)',
);
const mknod = libc.func('int mknod(const uint8_t *path, uint32_t mode, uint64_t device)');
const llistxattr = libc.func(
  'intptr_t llistxattr(const uint8_t *path, _Out_ uint8_t *list, size_t size)',
);
const lgetxattr = libc.func(
  'intptr_t lgetxattr(const uint8_t *path, const uint8_t *name, _Out_ uint8_t *value, size_t size)',
);
const lsetxattr = libc.func(
  'int lsetxattr(const uint8_t *path, const uint8_t *name, const uint8_t *value, size_t size, int flags)',
);

const F_SETPIPE_SZ = 1031;
/** What any user may have; /proc/sys/fs/pipe-max-size. */
const PIPE_BYTES = 1024 * 1024;
const fcntl = libc.func('int fcntl(int fd, int command, int argument)');

/**
 * Enlarges the buffer of a pipe, for fewer switches between its two ends. Does nothing to what
 * is not a pipe.
 */
export function widenPipe(fd: number): void {
  fcntl(fd, F_SETPIPE_SZ, PIPE_BYTES);
}

function terminated(text: Buffer | string): Buffer {
  return Buffer.concat([Buffer.from(text), Buffer.of(0)]);
}

const NANOSECONDS = 1_000_000_000n;

/** Sets the modification time in nanoseconds since 1970, also before it. Throws SystemError. */
export function setModificationTime(path: Buffer, nanoseconds: bigint): void {
  const fraction = ((nanoseconds % NANOSECONDS) + NANOSECONDS) % NANOSECONDS;
  const seconds = (nanoseconds - fraction) / NANOSECONDS;
  const times = BigInt64Array.of(0n, UTIME_OMIT, seconds, fraction);
  checked('utimensat', utimensat(AT_FDCWD, terminated(path), times, AT_SYMLINK_NOFOLLOW));
}

/** Makes a FIFO or a device node; `mode` with the bits of the type. Throws SystemError. */
export function makeNode(path: Buffer, mode: number, device: bigint): void {
  checked('mknod', mknod(terminated(path), mode, device));
}

/** XATTR_SIZE_MAX and XATTR_LIST_MAX of linux/limits.h. */
const MAX_XATTR_BYTES = 64 * 1024;
const scratch = Buffer.alloc(MAX_XATTR_BYTES);

/** The names of a file's extended attributes; none where the file system keeps none. */
export function linkXattrNames(path: Buffer): string[] {
  const length = Number(llistxattr(terminated(path), scratch, MAX_XATTR_BYTES));
  try {
    const names = scratch.toString('latin1', 0, checked('llistxattr', length));
    return names.split('\0').filter((name) => name !== '');
  } catch (error) {
    if (error instanceof SystemError && error.errno === constants.errno.ENOTSUP) return [];
    throw error;
  }
}

export function linkXattr(path: Buffer, name: string): Buffer {
  const length = Number(
    lgetxattr(terminated(path), terminated(Buffer.from(name, 'latin1')), scratch, MAX_XATTR_BYTES),
  );
  return Buffer.from(scratch.subarray(0, checked('lgetxattr', length)));
}

export function setLinkXattr(path: Buffer, name: string, value: Buffer): void {
  const nameBytes = terminated(Buffer.from(name, 'latin1'));
  checked('lsetxattr', lsetxattr(terminated(path), nameBytes, value, value.length, 0));
}
