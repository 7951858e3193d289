import { once } from 'node:events';
import { Agent, request as httpRequest, type IncomingMessage } from 'node:http';
import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
import { afterEach, expect, test } from 'vitest';
import { type Destination, type Entrance, FrontDoor } from './front-door.ts';

let door: FrontDoor | undefined;

afterEach(async () => {
  await door?.close(0);
  door = undefined;
});

/** Responds with its name. */
function entrance(name: string, serves: (destination: Destination) => boolean): Entrance {
  return {
    serves,
    request: (_request, response) => response.end(name),
    upgrade: (_request, socket) => {
      socket.end(
        `HTTP/1.1 101 Switching Protocols\r\nUpgrade: ${name}\r\nConnection: Upgrade\r\n\r\n`,
      );
    },
  };
}

const PORT_OF_GUEST = entrance('proxy', ({ hostname }) => /^\d+-sb\w+\.example$/.test(hostname));
const OTHER_DIALECT = entrance('dialect', ({ path }) => path.startsWith('/sandboxes'));
const API = entrance('api', () => true);

async function open(...entrances: Entrance[]): Promise<URL> {
  door = await FrontDoor.open({ host: '127.0.0.1', port: 0 }, entrances);
  return new URL(door.url);
}

async function send(url: URL, host: string, path: string, headers = {}) {
  const request = httpRequest({ port: url.port, path, headers: { host, ...headers } });
  request.on('upgrade', (response: IncomingMessage) => request.emit('response', response));
  request.end();
  const [response] = (await once(request, 'response')) as [IncomingMessage];
  return response;
}

const REQUESTS: readonly [string, string, string][] = [
  ['8080-sb1.example', '/', 'proxy'],
  ['8080-SB1.Example:7070', '/sandboxes', 'proxy'],
  ['localhost:7070', '/sandboxes?state=running', 'dialect'],
  ['localhost:7070', '/v1/sandboxes', 'api'],
  ['[::1]:7070', '/', 'api'],
  ['localhost', '/?next=/sandboxes', 'api'],
  ['127.0.0.1', 'http://8080-sb1.example/v1', 'proxy'],
];

test.each(REQUESTS)('host %s, path %s: %s gets the request', async (host, path, name) => {
  const url = await open(PORT_OF_GUEST, OTHER_DIALECT, API);
  expect(await text(await send(url, host, path))).toBe(name);
});

test.each(REQUESTS)('host %s, path %s: %s gets the upgrade', async (host, path, name) => {
  const url = await open(PORT_OF_GUEST, OTHER_DIALECT, API);
  const headers = { connection: 'Upgrade', upgrade: 'websocket' };
  const { statusCode, headers: received } = await send(url, host, path, headers);
  expect([statusCode, received.upgrade]).toEqual([101, name]);
});

test('what no entrance serves is not_found, for a request and for an upgrade', async () => {
  const url = await open(PORT_OF_GUEST);
  for (const headers of [{}, { connection: 'Upgrade', upgrade: 'websocket' }]) {
    const response = await send(url, 'localhost', '/', headers);
    expect(response.statusCode).toBe(404);
    expect(JSON.parse(await text(response))).toMatchObject({ error: { code: 'not_found' } });
  }
});

test('a request without a Host header has no host name', async () => {
  const url = await open(PORT_OF_GUEST, API);
  const socket = connect(Number(url.port), '127.0.0.1');
  socket.end('GET / HTTP/1.0\r\n\r\n');
  expect(await text(socket)).toMatch(/api$/);
});

test('an address that is in use is host_setup, and the remedy names all places where the port is set', async () => {
  const url = await open(API);
  const second = FrontDoor.open({ host: '127.0.0.1', port: Number(url.port) }, [API]);
  await expect(second).rejects.toMatchObject({
    code: 'host_setup',
    remedy: expect.stringContaining('--port, TORPOR_PORT or port in torpor.toml'),
  });
});

test('closing waits for the response that is under way, and not for its connection to idle', async () => {
  const { promise: received, resolve: receive } = Promise.withResolvers<void>();
  const { promise: released, resolve: release } = Promise.withResolvers<void>();
  const url = await open({
    ...API,
    request: async (_request, response) => {
      receive();
      await released;
      response.end('whole');
    },
  });
  const agent = new Agent({ keepAlive: true });
  const request = httpRequest({ port: url.port, agent }).end();
  await received;
  const closed = door?.close(60_000);
  release();
  const [response] = (await once(request, 'response')) as [IncomingMessage];
  expect(await text(response)).toBe('whole');
  await closed;
  agent.destroy();
});
