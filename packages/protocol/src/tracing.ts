/** Traces what is done: each piece of work is a span, a child of the one in which it is started. */
import { Code, ConnectError } from '@connectrpc/connect';
import { currentSpan, runInSpan } from './request-context.ts';
import type { Span, SpanOptions, Tracer } from './span.ts';

/** The work gets its span; undefined if it is not traced. */
type Work<T> = (span: Span | undefined) => Promise<T>;

/** Does a part of what is being traced; if nothing is, it is only done. */
export function tracePart<T>(name: string, options: SpanOptions, work: Work<T>): Promise<T> {
  const parent = currentSpan();
  return parent === undefined ? work(undefined) : endAfter(parent.child(name, options), work);
}

/** Like {@link tracePart}, but where nothing is being traced, it is a trace of its own. */
export function traceWork<T>(
  tracer: Tracer,
  name: string,
  options: SpanOptions,
  work: Work<T>,
): Promise<T> {
  const span = currentSpan()?.child(name, options) ?? tracer.start(name, options);
  return span === undefined ? work(undefined) : endAfter(span, work);
}

/** Records a part that has just been done, and took `milliseconds`. */
export function recordPart(name: string, milliseconds: number): void {
  currentSpan()?.child(name, { runningForMs: milliseconds }).end();
}

/** Does the work of a span, which ends with it. */
export async function endAfter<T>(span: Span, work: Work<T>): Promise<T> {
  try {
    const result = await runInSpan(span, () => work(span));
    span.end();
    return result;
  } catch (error) {
    span.end(error);
    throw error;
  }
}

/**
 * The same messages; the span ends with them, when their reader leaves, or at the signal of their
 * call: a reader that has all that it needs may neither ask for more nor leave.
 */
export function endAfterMessages<T>(
  span: Span,
  messages: AsyncIterable<T>,
  signal?: AbortSignal,
): AsyncIterable<T> {
  signal?.addEventListener('abort', () => span.end(), { once: true });
  return {
    [Symbol.asyncIterator]: () => {
      const iterator = messages[Symbol.asyncIterator]();
      const { return: leave, throw: fail } = iterator;
      const watch = async (step: () => Promise<IteratorResult<T>>) => {
        try {
          const result = await runInSpan(span, step);
          if (result.done === true) span.end();
          return result;
        } catch (error) {
          // A reader that left is no failure of what it read.
          span.end(isCancellation(error) ? undefined : error);
          throw error;
        }
      };
      return {
        next: () => watch(() => iterator.next()),
        ...(leave && { return: (value?: unknown) => watch(() => leave.call(iterator, value)) }),
        ...(fail && { throw: (error?: unknown) => watch(() => fail.call(iterator, error)) }),
      };
    },
  };
}

function isCancellation(error: unknown): boolean {
  return error instanceof ConnectError && error.code === Code.Canceled;
}
