import { Code, ConnectError } from '@connectrpc/connect';
import { type ErrorCode, TorporError } from '@torpor/protocol';

/** What a failed system call means to the caller of an RPC. */
const CODE_OF_ERRNO: Readonly<Record<string, Code>> = {
  ENOENT: Code.NotFound,
  // A parent of the path is a file, so nothing can be at the path.
  ENOTDIR: Code.NotFound,
  ESRCH: Code.NotFound,
  EEXIST: Code.AlreadyExists,
  EACCES: Code.PermissionDenied,
  EPERM: Code.PermissionDenied,
  EROFS: Code.FailedPrecondition,
  ELOOP: Code.FailedPrecondition,
  ENOTEMPTY: Code.FailedPrecondition,
  EISDIR: Code.FailedPrecondition,
  EBUSY: Code.FailedPrecondition,
  ETXTBSY: Code.FailedPrecondition,
  EXDEV: Code.FailedPrecondition,
  ENXIO: Code.FailedPrecondition,
  ENODEV: Code.FailedPrecondition,
  EAGAIN: Code.FailedPrecondition,
  EINVAL: Code.InvalidArgument,
  ENAMETOOLONG: Code.InvalidArgument,
  ENOTSUP: Code.InvalidArgument,
};

/** What the sandbox has run out of, which has a code of its own in all interfaces. */
const EXHAUSTED: Readonly<Record<string, ErrorCode>> = {
  ENOSPC: 'sandbox_disk_full',
  EDQUOT: 'sandbox_disk_full',
  EMFILE: 'sandbox_exhausted',
  ENFILE: 'sandbox_exhausted',
  ENOMEM: 'sandbox_exhausted',
  EFBIG: 'too_large',
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

/**
 * The ConnectError for a failed operation: `what` says which one, the code is that
 * of the errno, `internal` for an unexpected one. A ConnectError stays as it is. Of a full
 * disk and the like it carries the code of the error table as well.
 */
export function filesystemError(what: string, error: unknown): ConnectError {
  if (error instanceof ConnectError) return error;
  const name = errnoName(error);
  const reason = error instanceof Error ? error.message : String(error);
  const exhausted = EXHAUSTED[name ?? ''];
  if (exhausted !== undefined) {
    return new TorporError(exhausted, `${what}: ${reason}`, { cause: error }).toConnectError();
  }
  const code = CODE_OF_ERRNO[name ?? ''] ?? Code.Internal;
  return new ConnectError(`${what}: ${reason}`, code, undefined, undefined, error);
}
