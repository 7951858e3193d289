import { Code, ConnectError } from '@connectrpc/connect';
import { type ErrorCode, TorporError } from '@torpor/protocol';

/** The RPC's error code for a failed system call. */
const CODE_OF_ERRNO: Readonly<Record<string, Code>> = {
  ENOENT: Code.NotFound,
  // A parent of the path is a file, so the path cannot exist.
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

/** Exhausted resources of the sandbox, with a code of their own in all interfaces. */
const EXHAUSTED: Readonly<Record<string, ErrorCode>> = {
  ENOSPC: 'sandbox_disk_full',
  EDQUOT: 'sandbox_disk_full',
  EMFILE: 'sandbox_exhausted',
  ENFILE: 'sandbox_exhausted',
  ENOMEM: 'sandbox_exhausted',
  EFBIG: 'too_large',
};

/** The name of the errno in an error of Node or of `@torpor/linux`. */
export function errnoName(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string'
    ? error.code
    : undefined;
}

/** Whether the path does not exist, as opposed to other errors. */
export function isMissing(error: unknown): boolean {
  const name = errnoName(error);
  return name === 'ENOENT' || name === 'ENOTDIR';
}

/**
 * The ConnectError for a failed operation: `what` says which one, the code is that of the
 * errno, `internal` for an unexpected one. A ConnectError is returned as it is. For a full disk
 * and the like it has the code of the error table as well.
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
