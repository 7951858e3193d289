import { Code, ConnectError } from '@connectrpc/connect';
import { TorporError } from '@torpor/protocol';
import { errnoName } from '../filesystem/errors.ts';

/** An error with the HTTP status that E2B's envd returns. */
export class HttpError extends Error {
  override readonly name = 'HttpError';
  readonly status: number;

  constructor(status: number, message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.status = status;
  }

  /**
   * The HttpError for anything that was thrown: ConnectErrors and TorporErrors by their code,
   * errors of the file system by their errno (a full disk 507, exhausted resources of the
   * sandbox 503, an impossible path of a file 400), else 500, with `what` in the message.
   */
  static from(reason: unknown, what?: string): HttpError {
    if (reason instanceof HttpError) return reason;
    if (reason instanceof ConnectError) {
      return new HttpError(STATUS_OF_CODE[reason.code] ?? 500, reason.rawMessage, reason);
    }
    if (reason instanceof TorporError) {
      return new HttpError(reason.httpStatus, reason.message, reason);
    }
    const status = STATUS_OF_ERRNO[errnoName(reason) ?? ''] ?? 500;
    const why = reason instanceof Error ? reason.message : String(reason);
    const message = what === undefined ? why : `${what}: ${why}`;
    return new HttpError(
      status,
      status === 507 ? `not enough disk space available: ${message}` : message,
      reason,
    );
  }
}

const STATUS_OF_CODE: Partial<Record<Code, number>> = {
  [Code.InvalidArgument]: 400,
  [Code.FailedPrecondition]: 400,
  [Code.Unauthenticated]: 401,
  [Code.PermissionDenied]: 403,
  [Code.NotFound]: 404,
};

const STATUS_OF_ERRNO: Readonly<Record<string, number>> = {
  EAGAIN: 400,
  EBUSY: 400,
  EINVAL: 400,
  EISDIR: 400,
  ELOOP: 400,
  ENAMETOOLONG: 400,
  ENODEV: 400,
  ENOTDIR: 400,
  ENOTSUP: 400,
  ENXIO: 400,
  EROFS: 400,
  ETXTBSY: 400,
  EXDEV: 400,
  EACCES: 403,
  EPERM: 403,
  ENOENT: 404,
  ESRCH: 404,
  EEXIST: 409,
  EFBIG: 413,
  EMFILE: 503,
  ENFILE: 503,
  ENOMEM: 503,
  ENOSPC: 507,
  EDQUOT: 507,
};
