/** The error codes that copying a tree of files can fail with. */
export type TreeErrorCode =
  | 'invalid_request'
  | 'not_found'
  | 'forbidden'
  | 'conflict'
  | 'disk_full'
  | 'internal_error';

/** Why a tree could not be copied at all. */
export class TreeError extends Error {
  override readonly name = 'TreeError';
  readonly code: TreeErrorCode;

  constructor(code: TreeErrorCode, message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
  }
}

/** What was not copied, or not as it was, and why. */
export interface Omission {
  /** Below the source; a byte that is not UTF-8 is shown as U+FFFD. */
  readonly path: string;
  readonly reason: string;
}

/** The name of the errno of a failed system call, or undefined for any other error. */
export function errnoOf(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string'
    ? error.code
    : undefined;
}

const CODES: Record<string, TreeErrorCode> = {
  ENOENT: 'not_found',
  ENOTDIR: 'not_found',
  EACCES: 'forbidden',
  EPERM: 'forbidden',
  EROFS: 'forbidden',
  ENOSPC: 'disk_full',
  EDQUOT: 'disk_full',
  EISDIR: 'conflict',
  ENOTEMPTY: 'conflict',
  EBUSY: 'conflict',
};

const REASONS: Record<string, string> = {
  E2BIG: 'too large for the file system',
  EACCES: 'permission denied',
  EPERM: 'operation not permitted',
  EROFS: 'read-only file system',
  EEXIST: 'something with that name exists',
  ENOENT: 'no such file or directory',
  ENOTDIR: 'not a directory',
  EISDIR: 'is a directory',
  ENOTEMPTY: 'the directory is not empty',
  EBUSY: 'it is in use',
  ELOOP: 'too many levels of symbolic links',
  ENAMETOOLONG: 'the name is too long',
  ENOSPC: 'no space left on the device',
  EDQUOT: 'the disk quota is exceeded',
  EFBIG: 'the file is too large',
  ENOTSUP: 'the file system does not support it',
  EOPNOTSUPP: 'the file system does not support it',
  EMLINK: 'too many links',
  EIO: 'input/output error',
  EINVAL: 'the file system does not accept it',
};

/** The message for a failed system call. */
export function reasonOf(error: unknown): string {
  const errno = errnoOf(error);
  if (errno !== undefined) return REASONS[errno] ?? errno;
  return error instanceof Error ? error.message : String(error);
}

/** The error that a failed system call on `path` means for the whole copy. */
export function treeError(error: unknown, path: string): TreeError {
  if (error instanceof TreeError) return error;
  const code = CODES[errnoOf(error) ?? ''] ?? 'internal_error';
  return new TreeError(code, `${path}: ${reasonOf(error)}`, error);
}

/** Errors that every further entry would fail with too. */
const FATAL = new Set(['ENOSPC', 'EDQUOT', 'EIO', 'EROFS', 'ENOMEM', 'EMFILE', 'ENFILE']);

export function isFatal(error: unknown): boolean {
  const errno = errnoOf(error);
  return errno === undefined || FATAL.has(errno);
}
