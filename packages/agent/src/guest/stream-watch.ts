import { TorporError } from '@torpor/protocol';

/**
 * Yields the events of a guest's stream, and throws `guest_unreachable` when there has been
 * none, not even a keepalive, for `limitMs`: a guest that hangs does not close its connections.
 * The consumer's time does not count.
 */
export async function* failOnSilence<T>(
  events: AsyncIterable<T>,
  limitMs: number,
  abort: AbortController,
): AsyncGenerator<T> {
  const silent = () =>
    abort.abort(
      new TorporError(
        'guest_unreachable',
        `The guest has sent nothing, not even a keepalive, for ${Math.round(limitMs / 1000)} s.`,
      ),
    );
  let timer = setTimeout(silent, limitMs);
  try {
    for await (const event of events) {
      clearTimeout(timer);
      yield event;
      timer = setTimeout(silent, limitMs);
    }
  } catch (error) {
    throw abort.signal.reason instanceof TorporError ? abort.signal.reason : error;
  } finally {
    clearTimeout(timer);
  }
}
