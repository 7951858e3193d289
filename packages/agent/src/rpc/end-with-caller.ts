import type { Interceptor } from '@connectrpc/connect';

/**
 * Ends the stream of a handler when its call ends, however the caller disconnected. A handler
 * that waits for something sees that by its signal; one that has just yielded would never
 * be resumed, and never release what it holds (`using`, `finally`).
 */
export const endWithCaller: Interceptor = (next) => async (request) => {
  const response = await next(request);
  if (!response.stream) return response;
  const messages = response.message[Symbol.asyncIterator]();
  const end = () => {
    // No caller is left to be told what it throws meanwhile.
    messages.return?.().catch(() => undefined);
  };
  request.signal.addEventListener('abort', end, { once: true });
  if (request.signal.aborted) end();
  return { ...response, message: { [Symbol.asyncIterator]: () => messages } };
};
