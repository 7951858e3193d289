import { create } from '@bufbuild/protobuf';
import { Code, ConnectError } from '@connectrpc/connect';
import { ERRORS, type ErrorCode, installRpcErrors, isErrorCode, TorporError } from './errors.ts';
import { ErrorDetailSchema } from './gen/hostagent/v1/hostagent_pb.ts';

const FROM_CONNECT_CODE: Partial<Record<Code, ErrorCode>> = {
  [Code.InvalidArgument]: 'invalid_request',
  [Code.OutOfRange]: 'invalid_request',
  [Code.Unauthenticated]: 'unauthorized',
  [Code.PermissionDenied]: 'forbidden',
  [Code.NotFound]: 'not_found',
  [Code.AlreadyExists]: 'already_exists',
  [Code.FailedPrecondition]: 'invalid_state',
  [Code.Aborted]: 'conflict',
  [Code.DeadlineExceeded]: 'timeout',
  // Our errors carry their own code; the library's limits on messages do not.
  [Code.ResourceExhausted]: 'too_large',
  [Code.Canceled]: 'conflict',
  [Code.Unavailable]: 'host_unavailable',
  [Code.Unimplemented]: 'not_implemented',
};

function toConnectError(error: TorporError): ConnectError {
  const { code, remedy, issues, message } = error;
  const detail = create(ErrorDetailSchema, {
    code,
    issues: [...issues],
    ...(remedy === '' ? {} : { remedy }),
  });
  return new ConnectError(
    message,
    Code[ERRORS[code].connect],
    undefined,
    [{ desc: ErrorDetailSchema, value: detail }],
    error,
  );
}

function fromConnectError(error: ConnectError): TorporError {
  const [detail] = error.findDetails(ErrorDetailSchema);
  if (detail !== undefined && isErrorCode(detail.code)) {
    return new TorporError(detail.code, error.rawMessage, {
      remedy: detail.remedy ?? '',
      issues: detail.issues.map(({ field, problem }) => ({ field, problem })),
      cause: error,
    });
  }
  if (error.cause instanceof TorporError) return error.cause;
  return new TorporError(FROM_CONNECT_CODE[error.code] ?? 'internal_error', error.rawMessage, {
    cause: error,
  });
}

installRpcErrors({
  encode: toConnectError,
  decode: (reason) => (reason instanceof ConnectError ? fromConnectError(reason) : undefined),
});
