import { once } from 'node:events';
import { rest } from '@torpor/protocol';
import { until } from '@torpor/testkit/control-plane';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { WebSocket, WebSocketServer } from 'ws';
import { z } from 'zod';
import { FrameSocket } from './socket.ts';

const schema = z.strictObject({ n: z.int() });

let server: WebSocketServer;
let client: WebSocket;
let raw: WebSocket;
let socket: FrameSocket;

beforeEach(async () => {
  server = new WebSocketServer({ port: 0, host: '127.0.0.1' });
  await once(server, 'listening');
  const address = server.address();
  client = new WebSocket(`ws://127.0.0.1:${typeof address === 'object' ? address?.port : ''}`);
  [raw] = await once(server, 'connection');
  socket = new FrameSocket(raw);
  await once(client, 'open');
});

afterEach(() => {
  client.terminate();
  server.close();
});

test('a client that does not read makes the sender wait', async () => {
  client.pause();
  const frames = 2000;
  const frame = { data: 'x'.repeat(64 * 1024) };
  let sent = 0;
  const sending = (async () => {
    for (; sent < frames; sent++) await socket.send(frame);
  })();
  // Once a frame stays in our buffer, the kernel's are full.
  await until(() => raw.bufferedAmount > 0 && sent > 0);
  const stuckAt = sent;
  expect(stuckAt).toBeLessThan(frames);
  expect(raw.bufferedAmount).toBeLessThan(3 * frame.data.length);
  let received = 0;
  client.on('message', () => received++);
  client.resume();
  await sending;
  await until(() => received === frames);
});

test('input that arrives faster than it is handled is queued in order, and none is lost', async () => {
  const frames = 1000;
  for (let n = 0; n < frames; n++) client.send(JSON.stringify({ n }));
  await until(() => raw.isPaused);
  for (let n = 0; n < frames; n++) expect(await socket.receive(schema)).toEqual({ n });
});

test('large input is limited by its size, and its client is not disconnected meanwhile', async () => {
  socket.acceptsBinary = true;
  socket.keepAlive(100);
  let pings = 0;
  client.on('ping', () => pings++);
  const frames = 20;
  for (let n = 0; n < frames; n++) client.send(Buffer.alloc(512 * 1024, n));
  await until(() => raw.isPaused);
  const before = pings;
  await until(() => pings > before + 3);
  for (let n = 0; n < frames; n++) {
    const frame = await socket.receiveAny(schema);
    expect(Buffer.isBuffer(frame) && frame[0]).toBe(n);
  }
  expect(socket.closed.aborted).toBe(false);
});

test('frames that arrived before the close are still returned, then undefined', async () => {
  client.send('{"n":1}');
  client.close();
  await once(raw, 'close');
  expect(socket.closed.aborted).toBe(true);
  expect(await socket.receive(schema)).toEqual({ n: 1 });
  expect(await socket.receive(schema)).toBeUndefined();
  await socket.send({ n: 2 });
});

test.each([['{'], ['{"n":"one"}'], ['{"n":1,"m":2}']])('refuses the frame %s', async (text) => {
  client.send(text);
  await expect(socket.receive(schema)).rejects.toMatchObject({ code: 'invalid_request' });
});

test('a binary frame closes the socket', async () => {
  client.send(Buffer.from('{"n":1}'));
  const [message] = await once(client, 'message');
  expect(JSON.parse(String(message))).toMatchObject({ code: 'invalid_request', fatal: true });
  await once(client, 'close');
});

test('a frame that is too large is refused with the limit', async () => {
  client.send('x'.repeat(rest.MAX_CLIENT_FRAME_BYTES + 1));
  const [message] = await once(client, 'message');
  expect(JSON.parse(String(message))).toMatchObject({
    code: 'too_large',
    data: expect.stringContaining(`at most ${rest.MAX_CLIENT_FRAME_BYTES} bytes`),
    fatal: true,
  });
  await once(client, 'close');
});
