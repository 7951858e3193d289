import { checked, libc } from './libc.ts';

const linkat = libc.func(
  'int linkat(int olddirfd, str oldpath, int newdirfd, str newpath, int flags)',
);

const AT_FDCWD = -100;
const AT_SYMLINK_FOLLOW = 0x400;

/** Flag of open(2) for a file without a name; the path is the directory whose file system holds it. */
export const O_TMPFILE = 0o20200000;

/**
 * Gives an open file that has no name (`O_TMPFILE`) its first one (linkat(2)).
 * Throws SystemError: `EEXIST`, `ENOENT`, `ENOSPC`, `EXDEV`, …
 */
export function linkOpenFile(fd: number, path: string): void {
  const source = `/proc/self/fd/${fd}`;
  checked('linkat', linkat(AT_FDCWD, source, AT_FDCWD, path, AT_SYMLINK_FOLLOW));
}
