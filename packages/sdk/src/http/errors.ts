import {
  type ErrorCode,
  isErrorCode,
  TorporError,
  type TorporErrorOptions,
} from '@torpor/protocol/basics';
import { z } from 'zod';

/** As the API documents it; fields that a newer server added are ignored. */
const receivedErrorSchema = z.object({
  error: z.object({
    code: z.string(),
    message: z.string(),
    remedy: z.string().optional(),
    issues: z.array(z.object({ field: z.string(), problem: z.string() })).optional(),
  }),
});

export interface FailedResponse {
  readonly status: number;
  /** Header `X-Request-Id`. */
  readonly requestId: string | undefined;
  /** Header `Retry-After`. */
  readonly retryAfter: string | undefined;
}

/** The error that the body of a response describes, or the closest that its status allows. */
export function errorFromResponse(
  { status, requestId, retryAfter }: FailedResponse,
  text: string,
): TorporError {
  const hints = { requestId, retryAfterSec: seconds(retryAfter) };
  const parsed = receivedErrorSchema.safeParse(parseJson(text));
  if (parsed.success) {
    const { code, message, remedy, issues } = parsed.data.error;
    return torporError(code, message, {
      ...hints,
      issues,
      ...(remedy === undefined ? {} : { remedy }),
    });
  }
  const excerpt = text.trim().slice(0, 200);
  return new TorporError(
    CODE_OF_STATUS[status] ?? 'internal_error',
    `The API returned status ${status}${excerpt === '' ? '' : `: ${excerpt}`}.`,
    hints,
  );
}

/** The parts of a response with an error, from those of Node.js or undici. */
export function failedResponse(response: {
  readonly statusCode?: number | undefined;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
}): FailedResponse {
  const { statusCode: status = 500, headers } = response;
  const first = (value: string | string[] | undefined) => (Array.isArray(value) ? value[0] : value);
  return {
    status,
    requestId: first(headers['x-request-id']),
    retryAfter: first(headers['retry-after']),
  };
}

/** RFC 9110, section 10.2.3: seconds, or a date. */
function seconds(retryAfter: string | undefined): number | undefined {
  if (retryAfter === undefined) return undefined;
  if (/^\d+$/.test(retryAfter)) return Number(retryAfter);
  const waitMs = Date.parse(retryAfter) - Date.now();
  return Number.isNaN(waitMs) ? undefined : Math.max(Math.ceil(waitMs / 1000), 0);
}

/** A TorporError from the wire; `internal_error` for a code that this version does not know. */
export function torporError(
  code: string,
  message: string,
  options: TorporErrorOptions = {},
): TorporError {
  return isErrorCode(code)
    ? new TorporError(code, message, options)
    : new TorporError('internal_error', `${message} (${code})`, options);
}

/** Errors of a connection, and whether the server may have received the request. */
const connectionErrors = new WeakMap<TorporError, 'lost' | 'not made'>();

/** Of undici and of the socket: there was a connection, and it was closed. */
const LOST = new Set(['UND_ERR_SOCKET', 'ECONNRESET', 'EPIPE']);
/** There was none: the server is not running, or starting. */
const NOT_MADE = new Set(['ECONNREFUSED', 'UND_ERR_CONNECT_TIMEOUT']);

/** Whether the connection was lost after the request was sent, or could not be made; undefined for all other errors. */
export function connectionFailure(error: unknown): 'lost' | 'not made' | undefined {
  return error instanceof TorporError ? connectionErrors.get(error) : undefined;
}

/** The error for a request without a response. */
export function connectionError(apiUrl: URL, reason: unknown): TorporError {
  const error = noResponse(apiUrl, reason);
  const code = reason instanceof Error && 'code' in reason ? String(reason.code) : '';
  if (LOST.has(code)) connectionErrors.set(error, 'lost');
  if (NOT_MADE.has(code)) connectionErrors.set(error, 'not made');
  return error;
}

function noResponse(apiUrl: URL, reason: unknown): TorporError {
  const message = reason instanceof Error ? reason.message || reason.name : String(reason);
  return new TorporError('host_unavailable', `No response from ${apiUrl.origin}: ${message}`, {
    cause: reason,
    remedy:
      'Start Torpor with `npm start` or `torpor up`, or set TORPOR_API_URL to the address of a running server.',
  });
}

/** The error for a response that is incomplete. */
export function incompleteResponse(apiUrl: URL, reason: unknown): TorporError {
  const message = `The response of ${apiUrl.origin} is incomplete.`;
  const error = new TorporError('host_unavailable', message, {
    cause: reason,
    remedy:
      'Try again. If it was a file, it may have been truncated while it was read; the log of the server says why.',
  });
  connectionErrors.set(error, 'lost');
  return error;
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
