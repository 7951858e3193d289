import { ConnectError, type Interceptor } from '@connectrpc/connect';
import { TorporError } from '@torpor/protocol';
import type { Logger } from 'pino';

/** Sends every error with its code of Torpor's table, and logs internal errors. */
export function errorInterceptor(logger: Logger): Interceptor {
  const toConnect = (reason: unknown, procedure: string): ConnectError => {
    if (reason instanceof ConnectError) return reason;
    const error = TorporError.from(reason);
    if (error.code === 'internal_error') logger.error({ err: reason, procedure }, 'RPC failed');
    return error.toConnectError();
  };
  return (next) => async (request) => {
    const procedure = request.method.name;
    try {
      const response = await next(request);
      if (!response.stream) return response;
      return { ...response, message: mapErrors(response.message, procedure, toConnect) };
    } catch (error) {
      throw toConnect(error, procedure);
    }
  };
}

async function* mapErrors<T>(
  messages: AsyncIterable<T>,
  procedure: string,
  map: (reason: unknown, procedure: string) => ConnectError,
): AsyncGenerator<T> {
  try {
    yield* messages;
  } catch (error) {
    throw map(error, procedure);
  }
}
