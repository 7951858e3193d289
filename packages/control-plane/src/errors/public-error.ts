import type { rest, TorporError } from '@torpor/protocol';

/** The message of an error for users. An internal error reveals no details. */
export function publicMessage(error: TorporError): string {
  return error.code === 'internal_error' ? 'An internal error occurred.' : error.message;
}

/** The JSON body of an error. */
export function errorBody(error: TorporError): rest.ErrorBody {
  return {
    error: {
      code: error.code,
      message: publicMessage(error),
      ...(error.remedy === '' ? {} : { remedy: error.remedy }),
      ...(error.issues.length === 0 ? {} : { issues: [...error.issues] }),
    },
  };
}
