import type { Interceptor } from '@connectrpc/connect';
import { parseRequestId, REQUEST_ID_HEADER, runAsRequest } from '@torpor/protocol';

/** Works for the request of the API that the call names, so that its lines in the log have the id too. */
export const nameRequest: Interceptor = (next) => async (call) => {
  const id = parseRequestId(call.header.get(REQUEST_ID_HEADER));
  if (id === undefined) return next(call);
  const response = await runAsRequest(id, () => next(call));
  return response.stream ? { ...response, message: namedStream(id, response.message) } : response;
};

/** A generator runs in the context of the caller that asks for its next value. */
function namedStream<T>(id: string, messages: AsyncIterable<T>): AsyncIterable<T> {
  return {
    [Symbol.asyncIterator]: () => {
      const iterator = messages[Symbol.asyncIterator]();
      const { return: leave, throw: fail } = iterator;
      return {
        next: () => runAsRequest(id, () => iterator.next()),
        ...(leave && {
          return: (value?: unknown) => runAsRequest(id, () => leave.call(iterator, value)),
        }),
        ...(fail && {
          throw: (error?: unknown) => runAsRequest(id, () => fail.call(iterator, error)),
        }),
      };
    },
  };
}
