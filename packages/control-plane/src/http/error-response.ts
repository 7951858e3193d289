import { TorporError } from '@torpor/protocol';
import type { Context } from 'hono';
import { HTTPException } from 'hono/http-exception';
import type { ContentfulStatusCode } from 'hono/utils/http-status';
import { errorBody } from '../errors/public-error.ts';

/** The HTTP response for anything that was thrown. */
export function errorResponse(c: Context, reason: unknown): Response {
  const error = errorOf(reason);
  if (error.retryAfterSec !== undefined) c.header('Retry-After', String(error.retryAfterSec));
  return c.json(errorBody(error), error.httpStatus as ContentfulStatusCode);
}

/** Anything that was thrown, as the response has it. */
export function errorOf(reason: unknown): TorporError {
  return reason instanceof HTTPException ? fromHttpException(reason) : TorporError.from(reason);
}

function fromHttpException(reason: HTTPException): TorporError {
  return new TorporError(
    reason.status < 500 ? 'invalid_request' : 'internal_error',
    reason.message === '' ? 'The request cannot be parsed.' : reason.message,
    { cause: reason },
  );
}
