import { type ErrorCode, type FieldIssue, isErrorCode, TorporError } from '@torpor/protocol/basics';
import * as rest from '@torpor/protocol/rest';

/** The error that the body of a response describes, or the closest that its status allows. */
export function errorFromBody(status: number, text: string): TorporError {
  const parsed = rest.errorBodySchema.safeParse(parseJson(text));
  if (parsed.success) {
    const { code, message, remedy, issues } = parsed.data.error;
    return torporError(code, message, remedy, issues);
  }
  const excerpt = text.trim().slice(0, 200);
  return new TorporError(
    CODE_OF_STATUS[status] ?? 'internal_error',
    `The API returned status ${status}${excerpt === '' ? '' : `: ${excerpt}`}.`,
  );
}

/** A TorporError from the wire; `internal_error` for a code that this version does not know. */
export function torporError(
  code: string,
  message: string,
  remedy?: string,
  issues?: readonly FieldIssue[],
): TorporError {
  const options = { issues, ...(remedy === undefined ? {} : { remedy }) };
  return isErrorCode(code)
    ? new TorporError(code, message, options)
    : new TorporError('internal_error', `${message} (${code})`, options);
}

/** The error for a request without a response. */
export function connectionError(apiUrl: URL, reason: unknown): TorporError {
  const message = reason instanceof Error ? reason.message || reason.name : String(reason);
  return new TorporError('host_unavailable', `No response from ${apiUrl.origin}: ${message}`, {
    cause: reason,
    remedy:
      'Start Torpor with `npm start` or `torpor up`, or set TORPOR_API_URL to the address of a running server.',
  });
}

/** The error for a response that is incomplete. */
export function incompleteResponse(apiUrl: URL, reason: unknown): TorporError {
  return new TorporError('host_unavailable', `The response of ${apiUrl.origin} is incomplete.`, {
    cause: reason,
    remedy:
      'Try again. If it was a file, it may have been truncated while it was read; the log of the server says why.',
  });
}

const CODE_OF_STATUS: Record<number, ErrorCode> = {
  400: 'invalid_request',
  401: 'unauthorized',
  403: 'forbidden',
  404: 'not_found',
  405: 'method_not_allowed',
  408: 'timeout',
  409: 'conflict',
  413: 'too_large',
  // The server, or a proxy before it, could not read the header of the request.
  414: 'too_large',
  431: 'too_large',
  501: 'not_implemented',
  // From a proxy: our own has a body.
  502: 'host_unavailable',
  503: 'host_unavailable',
  504: 'timeout',
  507: 'disk_full',
};

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
