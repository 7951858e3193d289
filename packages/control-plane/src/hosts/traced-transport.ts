import type { Transport } from '@connectrpc/connect';
import { currentSpan, endAfter, endAfterMessages, runInSpan, type Span } from '@torpor/protocol';

type Method = Parameters<Transport['unary']>[0] | Parameters<Transport['stream']>[0];
type Header = Parameters<Transport['unary']>[3];

/** The same transport; of what is traced, each call to the agent is a span, which the agent continues. */
export function tracedTransport(transport: Transport, hostId: string): Transport {
  return {
    unary: (method, signal, timeoutMs, header, ...rest) => {
      const span = callSpan(method, hostId);
      const call = (headers: Header) =>
        transport.unary(method, signal, timeoutMs, headers, ...rest);
      return span === undefined
        ? call(header)
        : endAfter(span, () => call(tracedHeader(header, span)));
    },
    stream: async (method, signal, timeoutMs, header, ...rest) => {
      const span = callSpan(method, hostId);
      const call = (headers: Header) =>
        transport.stream(method, signal, timeoutMs, headers, ...rest);
      if (span === undefined) return call(header);
      try {
        const response = await runInSpan(span, () => call(tracedHeader(header, span)));
        return { ...response, message: endAfterMessages(span, response.message) };
      } catch (error) {
        span.end(error);
        throw error;
      }
    },
  };
}

function callSpan({ parent, name }: Method, hostId: string): Span | undefined {
  return currentSpan()?.child(`${parent.typeName}/${name}`, {
    kind: 'client',
    attributes: {
      'rpc.system': 'connect_rpc',
      'rpc.service': parent.typeName,
      'rpc.method': name,
      'torpor.host.id': hostId,
    },
  });
}

function tracedHeader(header: Header, { headers }: Span): Headers {
  const traced = new Headers(header);
  for (const [name, value] of Object.entries(headers)) traced.set(name, value);
  return traced;
}
