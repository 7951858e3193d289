import { randomUUID } from 'node:crypto';
import { parseRequestId, REQUEST_ID_HEADER, runAsRequest } from '@torpor/protocol';
import type { MiddlewareHandler } from 'hono';
import type { AppEnvironment } from '../environment.ts';

/**
 * Gives every request an id, the client's own if it sends a usable one: it is in the header
 * of the response, in every line that is logged for the request, and in its calls to agents.
 */
export function identify(): MiddlewareHandler<AppEnvironment> {
  return async (c, next) => {
    const id = parseRequestId(c.req.header(REQUEST_ID_HEADER)) ?? randomUUID();
    await runAsRequest(id, next);
    c.res.headers.set(REQUEST_ID_HEADER, id);
  };
}
