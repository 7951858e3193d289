import { currentRequestId, isId, runInSpan, type Tracer, traceHeadersOf } from '@torpor/protocol';
import type { MiddlewareHandler } from 'hono';
import type { AppEnvironment } from '../environment.ts';
import { errorOf } from '../error-response.ts';

const SANDBOX_ROUTE = '/v1/sandboxes/{id}';

/**
 * Traces every request, as a part of the trace that its `traceparent` names. The span has the
 * route and what the request is about; of the address nothing else, of headers and bodies nothing.
 */
export function trace(tracer: Tracer): MiddlewareHandler<AppEnvironment> {
  return async (c, next) => {
    const { method } = c.req;
    const span = tracer.start(method, {
      kind: 'server',
      caller: traceHeadersOf((name) => c.req.header(name)),
      attributes: { 'http.request.method': method, 'torpor.request.id': currentRequestId() },
    });
    if (span === undefined) return next();
    await runInSpan(span, next);
    const route = c.get('route');
    const { status } = c.res;
    const error = c.error === undefined ? undefined : errorOf(c.error);
    if (route !== undefined) span.rename(`${method} ${route}`);
    span.set({
      'http.route': route,
      'http.response.status_code': status,
      'error.type': error?.code,
      'torpor.team.id': c.get('principal')?.teamId || undefined,
      'torpor.sandbox.id': sandboxOf(route, c.req.path),
    });
    span.end(status < 500 ? undefined : (error ?? new Error(`HTTP ${status}`)));
  };
}

/** Undefined for what is no id: it may be anything. */
function sandboxOf(route: string | undefined, path: string): string | undefined {
  if (!route?.startsWith(SANDBOX_ROUTE)) return undefined;
  const [, , , id = ''] = path.split('/');
  return isId('sandbox', id) ? id : undefined;
}
