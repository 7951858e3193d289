import type { Interceptor } from '@connectrpc/connect';

/**
 * Closes the stream of a handler when its call is closed, however the caller disconnected. A
 * handler that waits is notified by its signal; one that has just yielded would never be
 * resumed, and never release its resources (`using`, `finally`).
 */
export const endWithCaller: Interceptor = (next) => async (request) => {
  const response = await next(request);
  if (!response.stream) return response;
  const messages = response.message[Symbol.asyncIterator]();
  const end = () => {
    // There is no caller left to report its error to.
    messages.return?.().catch(() => undefined);
  };
  request.signal.addEventListener('abort', end, { once: true });
  if (request.signal.aborted) end();
  return { ...response, message: { [Symbol.asyncIterator]: () => messages } };
};
