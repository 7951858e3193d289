import { cString } from './c-string.ts';
import { checked, libc } from './libc.ts';

const AT_FDCWD = -100;
const AT_SYMLINK_NOFOLLOW = 0x100;
const UTIME_OMIT = 0x3ffffffen;
const NANOSECONDS = 1_000_000_000n;

const utimensat = libc.func(
  'int utimensat(int dirfd, const uint8_t *path, const int64_t *times, int flags)',
);

/**
 * Sets the modification time of a file, or of a symbolic link itself, in nanoseconds since
 * 1970, also before it (utimensat(2)); Node's own calls take it as a floating-point number,
 * which has no room for them. Throws SystemError.
 */
export function setModificationTime(path: Buffer, nanoseconds: bigint): void {
  const fraction = ((nanoseconds % NANOSECONDS) + NANOSECONDS) % NANOSECONDS;
  const seconds = (nanoseconds - fraction) / NANOSECONDS;
  const times = BigInt64Array.of(0n, UTIME_OMIT, seconds, fraction);
  checked('utimensat', utimensat(AT_FDCWD, cString(path), times, AT_SYMLINK_NOFOLLOW));
}
