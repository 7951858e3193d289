import type { rest } from '@torpor/protocol';
import { TorporError } from '@torpor/protocol';
import type { Context } from 'hono';
import { HTTPException } from 'hono/http-exception';
import type { ContentfulStatusCode } from 'hono/utils/http-status';

/** The JSON body of an error. What is a defect of ours is not shown, only that it happened. */
export function errorBody(error: TorporError): rest.ErrorBody {
  const message = error.code === 'internal_error' ? 'Torpor met an internal error.' : error.message;
  return {
    error: {
      code: error.code,
      message,
      ...(error.remedy === '' ? {} : { remedy: error.remedy }),
    },
  };
}

/** The HTTP answer to anything that was thrown. */
export function errorResponse(c: Context, reason: unknown): Response {
  const error =
    reason instanceof HTTPException ? fromHttpException(reason) : TorporError.from(reason);
  return c.json(errorBody(error), error.httpStatus as ContentfulStatusCode);
}

function fromHttpException(reason: HTTPException): TorporError {
  return new TorporError(
    reason.status < 500 ? 'invalid_request' : 'internal_error',
    reason.message === '' ? 'The request cannot be understood.' : reason.message,
    { cause: reason },
  );
}
