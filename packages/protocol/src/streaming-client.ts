import type { DescService } from '@bufbuild/protobuf';
import { type CallOptions, type Client, createClient, type Transport } from '@connectrpc/connect';
import { TorporError } from './errors.ts';

type StreamingCall = (input: unknown, options?: CallOptions) => AsyncIterable<unknown>;

/**
 * A client whose server streams are cancelled when the reader leaves the iteration: by `break`,
 * by `return` at the last event, or by an exception. The iterators of `createClient` have no
 * `return`, so to the server, a reader that leaves without aborting a signal looks like one
 * that is endlessly slow.
 */
export function createStreamingClient<S extends DescService>(
  service: S,
  transport: Transport,
): Client<S> {
  const client = createClient(service, transport);
  const streaming = service.methods
    .filter(({ methodKind }) => methodKind === 'server_streaming')
    .map(({ localName }) => {
      const call = client[localName as keyof Client<S>] as unknown as StreamingCall;
      return [localName, cancelledOnReturn(call)] as const;
    });
  return Object.assign(client, Object.fromEntries(streaming));
}

function cancelledOnReturn(call: StreamingCall): StreamingCall {
  return (input, options = {}) => {
    const left = new AbortController();
    const { signal } = options;
    const messages = call(input, {
      ...options,
      signal: signal === undefined ? left.signal : AbortSignal.any([signal, left.signal]),
    })[Symbol.asyncIterator]();
    return {
      [Symbol.asyncIterator]: () => ({
        next: () => messages.next(),
        async return() {
          left.abort(new TorporError('conflict', 'The reader of the stream has left.'));
          // Handles the rejection of a call that has not been awaited yet.
          await messages.next().catch(() => undefined);
          return { done: true, value: undefined };
        },
      }),
    };
  };
}

/**
 * A call that streams messages to the server. An error of the messages' iterator is thrown
 * unchanged, although the transport converts it.
 */
export async function sendStream<M, R>(
  messages: AsyncIterable<M>,
  call: (messages: AsyncIterable<M>) => Promise<R>,
): Promise<R> {
  let failure: { readonly reason: unknown } | undefined;
  async function* watched(): AsyncGenerator<M, void> {
    try {
      yield* messages;
    } catch (reason) {
      failure = { reason };
      throw reason;
    }
  }
  try {
    return await call(watched());
  } catch (error) {
    throw failure === undefined ? error : failure.reason;
  }
}
