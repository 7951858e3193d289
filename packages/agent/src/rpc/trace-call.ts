import type { Interceptor, StreamRequest, UnaryRequest } from '@connectrpc/connect';
import {
  currentRequestId,
  endAfterMessages,
  runInSpan,
  type Tracer,
  traceHeadersOf,
} from '@torpor/protocol';

/** The call that only waits for what happens: its spans would be as long as the connection. */
const UNTRACED = 'WatchSandboxes';

/** Traces the calls that are part of a trace. Others are Torpor's own, such as the look at all sandboxes. */
export function traceCall(tracer: Tracer): Interceptor {
  return (next) => async (call) => {
    const { method, service, header, signal } = call;
    const caller = traceHeadersOf((name) => header.get(name));
    if (caller === undefined || method.name === UNTRACED) return next(call);
    const span = tracer.start(`${service.typeName}/${method.name}`, {
      kind: 'server',
      caller,
      attributes: {
        'rpc.system': 'connect_rpc',
        'rpc.service': service.typeName,
        'rpc.method': method.name,
        'torpor.request.id': currentRequestId(),
        'torpor.sandbox.id': sandboxOf(call),
      },
    });
    if (span === undefined) return next(call);
    try {
      const response = await runInSpan(span, () => next(call));
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

function sandboxOf({ stream, message }: UnaryRequest | StreamRequest): string | undefined {
  return !stream && 'sandboxId' in message ? String(message.sandboxId) : undefined;
}
