import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Code, ConnectError, createClient } from '@connectrpc/connect';
import {
  compressionGzip,
  createConnectTransport,
  createGrpcWebTransport,
} from '@connectrpc/connect-node';
import { envdProcess, TorporError } from '@torpor/protocol';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { rpcHandler } from './rpc-handler.ts';

const MAX_BYTES = 1000;
/** More than the field and its tags take in JSON and Base64 must still fit. */
const FITTING = Buffer.alloc(600, 'x');
const TOO_LONG = Buffer.alloc(5000, 'x');

let received: number[] = [];
const server = createServer(
  rpcHandler({
    routes: (router) => {
      router.service(envdProcess.Process, {
        sendInput: ({ input }) => {
          received.push(input?.input.value?.length ?? 0);
          return {};
        },
        async streamInput(requests) {
          for await (const { event } of requests) {
            if (event.case === 'data') received.push(event.value.input?.input.value?.length ?? 0);
          }
          return {};
        },
      });
    },
    acceptCompression: [compressionGzip],
    readMaxBytes: MAX_BYTES,
    fallback: (_request, response) => response.writeHead(404).end(),
  }),
);
let baseUrl: string;

beforeAll(async () => {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  baseUrl = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterAll(() => server.close());

const input = (value: Uint8Array) => ({ input: { case: 'stdin' as const, value } });

describe.each([
  ['Connect, JSON', { useBinaryFormat: false }, createConnectTransport],
  ['Connect, binary', {}, createConnectTransport],
  [
    'Connect, packed',
    { sendCompression: compressionGzip, compressMinBytes: 0 },
    createConnectTransport,
  ],
  ['gRPC-web', {}, createGrpcWebTransport],
  [
    'gRPC-web, packed',
    { sendCompression: compressionGzip, compressMinBytes: 0 },
    createGrpcWebTransport,
  ],
] as const)('over %s', (_name, options, createTransport) => {
  const client = () =>
    createClient(envdProcess.Process, createTransport({ baseUrl, httpVersion: '1.1', ...options }));

  it('accepts a message up to the limit, and names the limit for a longer one', async () => {
    received = [];
    await client().sendInput({ input: input(FITTING) });
    const error = ConnectError.from(
      await client()
        .sendInput({ input: input(TOO_LONG) })
        .catch((e: unknown) => e),
    );
    expect(received).toEqual([FITTING.length]);
    // resource_exhausted is a rate limit to E2B's clients.
    expect(error).toMatchObject({
      code: Code.InvalidArgument,
      rawMessage: expect.stringMatching(/^a message may have at most 1000 bytes.*several pieces/),
    });
    expect(TorporError.from(error).code).toBe('too_large');
  });

  it('accepts any number of messages of a stream, and refuses a long one among them', async () => {
    received = [];
    async function* messages(...sizes: number[]) {
      for (const size of sizes)
        yield { event: { case: 'data' as const, value: { input: input(Buffer.alloc(size)) } } };
    }
    await client().streamInput(messages(0, 700, 700, 1));
    expect(received).toEqual([0, 700, 700, 1]);
    const sent = client().streamInput(messages(1, 5000));
    const error = ConnectError.from(await sent.catch((e: unknown) => e));
    expect(TorporError.from(error).code).toBe('too_large');
  });
});
