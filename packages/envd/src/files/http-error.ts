import { Code, ConnectError } from '@connectrpc/connect';
import { errnoName, isDiskFull } from '../filesystem/errors.ts';

/** A refusal with the HTTP status that E2B's envd gives it. */
export class HttpError extends Error {
  override readonly name = 'HttpError';
  readonly status: number;

  constructor(status: number, message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.status = status;
  }

  /**
   * The HttpError for anything that was thrown: ConnectErrors by their code, a full
   * disk 507, a path that cannot be that of a file 400, else 500.
   */
  static from(reason: unknown): HttpError {
    if (reason instanceof HttpError) return reason;
    if (reason instanceof ConnectError) {
      return new HttpError(STATUS_OF_CODE[reason.code] ?? 500, reason.rawMessage, reason);
    }
    if (isDiskFull(reason)) {
      return new HttpError(507, `not enough disk space available: ${messageOf(reason)}`, reason);
    }
    const status = STATUS_OF_ERRNO[errnoName(reason) ?? ''] ?? 500;
    return new HttpError(status, messageOf(reason), reason);
  }
}

const STATUS_OF_CODE: Partial<Record<Code, number>> = {
  [Code.InvalidArgument]: 400,
  [Code.FailedPrecondition]: 400,
  [Code.Unauthenticated]: 401,
  [Code.NotFound]: 404,
};

const STATUS_OF_ERRNO: Readonly<Record<string, number>> = {
  ENAMETOOLONG: 400,
  ENOTDIR: 400,
  EISDIR: 400,
  ELOOP: 400,
  EROFS: 400,
  EFBIG: 507,
};

function messageOf(reason: unknown): string {
  return reason instanceof Error ? reason.message : String(reason);
}
