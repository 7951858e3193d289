/**
 * Traces the calls into guests. envd cannot reach a collector, so the host tells its part: how long
 * envd took until its response began, which envd says in `Server-Timing`.
 */
import type { Interceptor } from '@connectrpc/connect';
import {
  currentSpan,
  ENVD_TIMING,
  endAfterMessages,
  runInSpan,
  type Span,
  type TraceHeaders,
  tracePart,
} from '@torpor/protocol';
import type { Dispatcher } from 'undici';

const TIMING = new RegExp(`^${ENVD_TIMING};dur=(\\d+(?:\\.\\d+)?)$`);

/** Traces a Connect call to the envd of a sandbox, until its response or the last message of it. */
export function traceGuestCall(sandboxId: string): Interceptor {
  return (next) => async (call) => {
    const { service, method, header, signal } = call;
    const span = currentSpan()?.child(`${service.typeName}/${method.name}`, {
      kind: 'client',
      attributes: {
        'rpc.system': 'connect_rpc',
        'rpc.service': service.typeName,
        'rpc.method': method.name,
        'torpor.sandbox.id': sandboxId,
      },
    });
    if (span === undefined) return next(call);
    for (const [name, value] of Object.entries(span.headers)) header.set(name, value);
    try {
      const response = await runInSpan(span, () => next(call));
      setTiming(span, response.header.get('server-timing'));
      if (response.stream)
        return { ...response, message: endAfterMessages(span, response.message, signal) };
      span.end();
      return response;
    } catch (error) {
      span.end(error);
      throw error;
    }
  };
}

/** Traces an HTTP request to the envd of a sandbox, until its response begins. The query is not told. */
export function traceGuestRequest(
  { method, path }: { readonly method: string; readonly path: string },
  sandboxId: string,
  request: (headers: TraceHeaders | undefined) => Promise<Dispatcher.ResponseData>,
): Promise<Dispatcher.ResponseData> {
  const route = path.split('?', 1)[0] ?? path;
  const attributes = {
    'http.request.method': method,
    'http.route': route,
    'torpor.sandbox.id': sandboxId,
  };
  return tracePart(`envd ${method} ${route}`, { kind: 'client', attributes }, async (span) => {
    const response = await request(span?.headers);
    span?.set({ 'http.response.status_code': response.statusCode });
    const timing = response.headers['server-timing'];
    if (typeof timing === 'string') setTiming(span, timing);
    return response;
  });
}

/** The guest is not trusted: anything but a number is ignored. */
function setTiming(span: Span | undefined, header: string | null): void {
  const milliseconds = TIMING.exec(header ?? '')?.[1];
  if (milliseconds !== undefined) span?.set({ 'torpor.envd.duration_ms': Number(milliseconds) });
}
