import { Code, ConnectError } from '@connectrpc/connect';

/** What a failed system call means to the client. */
const CODE_OF_ERRNO: Readonly<Record<string, Code>> = {
  ENOENT: Code.NotFound,
  // A parent of the path is a file, so nothing can be at the path.
  ENOTDIR: Code.NotFound,
  EEXIST: Code.AlreadyExists,
  EACCES: Code.PermissionDenied,
  EPERM: Code.PermissionDenied,
  EROFS: Code.FailedPrecondition,
  ELOOP: Code.FailedPrecondition,
  ENOTEMPTY: Code.FailedPrecondition,
  EISDIR: Code.FailedPrecondition,
  EBUSY: Code.FailedPrecondition,
  EINVAL: Code.InvalidArgument,
  ENAMETOOLONG: Code.InvalidArgument,
  ENOSPC: Code.ResourceExhausted,
  EDQUOT: Code.ResourceExhausted,
  EMFILE: Code.ResourceExhausted,
  ENFILE: Code.ResourceExhausted,
};

/** The name of the errno that an error of Node or of `@torpor/linux` carries. */
export function errnoName(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string'
    ? error.code
    : undefined;
}

/** Whether nothing exists at a path, as opposed to a path that cannot be looked at. */
export function isMissing(error: unknown): boolean {
  const name = errnoName(error);
  return name === 'ENOENT' || name === 'ENOTDIR';
}

/** Whether the disk, or the user's quota of it, is full. */
export function isDiskFull(error: unknown): boolean {
  const name = errnoName(error);
  return name === 'ENOSPC' || name === 'EDQUOT';
}

/**
 * The ConnectError for a failed operation: `what` says which one, the code is that
 * of the errno, `internal` for an unexpected one. A ConnectError stays as it is.
 */
export function filesystemError(what: string, error: unknown): ConnectError {
  if (error instanceof ConnectError) return error;
  const name = errnoName(error);
  const code = (name === undefined ? undefined : CODE_OF_ERRNO[name]) ?? Code.Internal;
  const reason = error instanceof Error ? error.message : String(error);
  return new ConnectError(`${what}: ${reason}`, code, undefined, undefined, error);
}
