import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { TorporError } from '@torpor/protocol';
import { placesOf, SETTINGS } from '../config/index.ts';
import { errorBody } from '../errors/public-error.ts';
import { refuseUpgrade } from '../errors/refuse-upgrade.ts';

/** The destination of a request, which decides who handles it. */
export interface Destination {
  /** From the Host header, in lower case, without the port; empty if there is none. */
  readonly hostname: string;
  /** Without the query, as it was sent. */
  readonly path: string;
}

/** A part of the server that serves some host names and paths. */
export interface Entrance {
  serves(destination: Destination): boolean;
  request(request: IncomingMessage, response: ServerResponse): void;
  /** A request to upgrade the connection, to a WebSocket for example. */
  upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void;
}

/** While the server closes: how soon a connection is closed after its last response. */
const IDLE_CHECK_MS = 50;

export interface Address {
  readonly host: string;
  /** 0 takes any free port. */
  readonly port: number;
}

/**
 * The only listener of the control plane. A request or an upgrade goes to the first entrance
 * that serves its host name and path.
 */
export class FrontDoor {
  /** Base URL of what is served. */
  readonly url: string;
  readonly #server: Server;

  private constructor(server: Server, url: string) {
    this.#server = server;
    this.url = url;
  }

  /** Throws `host_setup` if the address cannot be listened on. */
  static async open({ host, port }: Address, entrances: readonly Entrance[]): Promise<FrontDoor> {
    const entranceFor = (request: IncomingMessage) => {
      const destination = destinationOf(request);
      return entrances.find((entrance) => entrance.serves(destination));
    };
    const server = createServer((request, response) => {
      const entrance = entranceFor(request);
      if (entrance === undefined) refuseRequest(response, nothingHere());
      else entrance.request(request, response);
    });
    server.on('upgrade', (request, socket, head) => {
      socket.on('error', () => socket.destroy());
      const entrance = entranceFor(request);
      if (entrance === undefined) refuseUpgrade(socket, nothingHere());
      else entrance.upgrade(request, socket, head);
    });
    // An upload has no time limit; the header of a request has one.
    server.requestTimeout = 0;
    server.headersTimeout = 30_000;
    server.keepAliveTimeout = 75_000;
    return new FrontDoor(server, await listen(server, { host, port }));
  }

  /** Accepts no new connections, waits up to `graceMs` for requests in flight, then closes their connections. */
  async close(graceMs: number): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    // A connection on which a response is under way is idle only after it.
    this.#server.closeIdleConnections();
    const idle = setInterval(() => this.#server.closeIdleConnections(), IDLE_CHECK_MS);
    const force = setTimeout(() => this.#server.closeAllConnections(), graceMs);
    await closed;
    clearInterval(idle);
    clearTimeout(force);
  }
}

/** RFC 9112, section 3.2: a target in absolute form overrides the Host header. */
function destinationOf({ url = '/', headers }: IncomingMessage): Destination {
  if (!url.startsWith('/') && URL.canParse(url)) {
    const { hostname, pathname } = new URL(url);
    return { hostname, path: pathname };
  }
  const [path = ''] = url.split('?', 1);
  return { hostname: hostnameOf(headers.host ?? ''), path };
}

function hostnameOf(host: string): string {
  return host.replace(/:\d*$/, '').toLowerCase();
}

function refuseRequest(response: ServerResponse, error: TorporError): void {
  response.writeHead(error.httpStatus, { 'Content-Type': 'application/json' });
  response.end(JSON.stringify(errorBody(error)));
}

function nothingHere(): TorporError {
  return new TorporError('not_found', 'Nothing is served under this host name and path.');
}

/** Returns the base URL. */
async function listen(server: Server, { host, port }: Address): Promise<string> {
  try {
    server.listen(port, host);
    await once(server, 'listening');
  } catch (error) {
    throw listenError(error, { host, port });
  }
  const address = server.address();
  const actualPort = typeof address === 'object' && address !== null ? address.port : port;
  return `http://${host.includes(':') ? `[${host}]` : host}:${actualPort}`;
}

function listenError(error: unknown, { host, port }: Address): TorporError {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  if (code === 'EADDRINUSE') {
    return new TorporError('host_setup', `Port ${port} of ${host} is in use.`, {
      remedy: `Choose another one with ${placesOf(SETTINGS.port)}, or stop what uses it.`,
      cause: error,
    });
  }
  const message = error instanceof Error ? error.message : String(error);
  return new TorporError('host_setup', `The API cannot listen on ${host}:${port}: ${message}.`, {
    remedy: `Check the permissions of this user, and the address: it is set by ${placesOf(SETTINGS.host)}.`,
    cause: error,
  });
}
