import { TorporError } from '@torpor/protocol';
import type { Context } from 'hono';
import type { Logger } from 'pino';
import { logFailure } from '../errors/log-failure.ts';
import type { AppEnvironment } from './environment.ts';

/**
 * A response with a streamed body. The source is read only as fast as the client reads. If
 * it fails half-way, the connection is cut, because the status has already been sent: the
 * client sees that the response is not complete. The source is released after the response,
 * even if its body is not read, as for a HEAD request.
 */
export function streamedResponse(
  c: Context<AppEnvironment>,
  content: AsyncIterable<Uint8Array>,
  logger: Logger,
  contentType = 'application/octet-stream',
): Response {
  const chunks = content[Symbol.asyncIterator]();
  c.env.outgoing?.once('close', () => {
    chunks.return?.().catch(() => undefined);
  });
  const body = new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        try {
          const next = await chunks.next();
          if (next.done === true) controller.close();
          else controller.enqueue(next.value);
        } catch (reason) {
          const error = TorporError.from(reason);
          const { outgoing } = c.env;
          if (!c.req.raw.signal.aborted) {
            const fields = { route: c.get('route') };
            logFailure(logger, fields, error, 'Response failed before it was complete');
          }
          if (outgoing === undefined) controller.error(error);
          else outgoing.destroy();
        }
      },
      async cancel() {
        await chunks.return?.();
      },
    },
    { highWaterMark: 0 },
  );
  return c.body(body, 200, {
    'Content-Type': contentType,
    'X-Content-Type-Options': 'nosniff',
  });
}
