import { once } from 'node:events';
import { createReadStream } from 'node:fs';
import { createServer, type RequestListener, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { PassThrough, Readable } from 'node:stream';
import * as rest from '@torpor/protocol/rest';
import { afterEach, expect, test } from 'vitest';
import { Files } from '../files.ts';
import { Connection } from './connection.ts';

let server: Server | undefined;

afterEach(() => {
  server?.closeAllConnections();
  server?.close();
});

/** A connection to an API with this listener. */
async function connectionTo(listener: RequestListener): Promise<Connection> {
  server = createServer(listener).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  return new Connection({ apiUrl: `http://127.0.0.1:${port}`, apiKey: 'tpr_0' });
}

const health = (connection: Connection) =>
  connection.json('GET', '/health', rest.healthSchema).finally(() => connection.close());

test.each([
  [404, 'not_found'],
  [405, 'method_not_allowed'],
  [408, 'timeout'],
  [413, 'too_large'],
  [414, 'too_large'],
  [431, 'too_large'],
  [500, 'internal_error'],
  [502, 'host_unavailable'],
  [503, 'host_unavailable'],
  [504, 'timeout'],
])('status %i without a body of the API is %s', async (status, code) => {
  const connection = await connectionTo((request, response) => {
    request.resume();
    response.writeHead(status).end('<h1>a proxy</h1>');
  });
  await expect(health(connection)).rejects.toMatchObject({
    code,
    message: expect.stringContaining(`status ${status}: <h1>a proxy</h1>`),
  });
});

const breakOff: RequestListener = (_request, response) => {
  response.writeHead(200, { 'content-length': '100' });
  response.write('{"version":');
  setImmediate(() => response.destroy());
};
const BROKEN = {
  code: 'host_unavailable',
  message: expect.stringContaining('is incomplete'),
};

test('an incomplete response and one that is not JSON have different errors', async () => {
  await expect(health(await connectionTo(breakOff))).rejects.toMatchObject(BROKEN);
  const files = new Files(await connectionTo(breakOff), '/v1/sandboxes/sb0');
  await expect(files.read('/x')).rejects.toMatchObject(BROKEN);
  const html = await connectionTo((_request, response) => response.end('<h1>welcome</h1>'));
  await expect(health(html)).rejects.toMatchObject({ code: 'internal_error' });
});

test("an upload fails with the error of the caller's own stream", async () => {
  const connection = await connectionTo((request, response) => {
    request.resume().on('end', () => response.writeHead(204).end());
  });
  const files = new Files(connection, '/v1/sandboxes/sb0');
  const missing = createReadStream('/no/such/file');
  await expect(files.write('/x', missing)).rejects.toMatchObject({ code: 'ENOENT' });
  await expect(files.write('/x', missing)).rejects.toMatchObject({ code: 'ENOENT' });
  const early = new PassThrough();
  const writing = files.write('/x', early);
  early.destroy(new RangeError('early'));
  await expect(writing).rejects.toThrow('early');
  const broken = Readable.from(
    (async function* () {
      yield Buffer.from('some');
      throw new RangeError('mine');
    })(),
  );
  await expect(files.write('/x', broken)).rejects.toThrow(RangeError);
  await connection.close();
});
