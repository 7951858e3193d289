import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { handleCors } from './http/cors.ts';
import type { EnvdOptions } from './options.ts';
import type { Services } from './services.ts';

/** A running daemon. */
export interface Envd extends AsyncDisposable {
  readonly port: number;
  /** Stops listening, closes connections and kills the processes that were started. */
  close(): Promise<void>;
}

/** Longer than the proxy in front keeps an idle connection, so that we never close first. */
const IDLE_TIMEOUT_MS = 640_000;
const DEFAULT_PORT = 49983;
/** TCP detects a client whose machine is unreachable, so that its streams do not stay open forever. */
const SOCKET_OPTIONS = { keepAlive: true, keepAliveInitialDelay: 60_000 };

/**
 * Starts envd. Resolves when `/health` responds; everything else is loaded after that, since
 * the daemon also starts on emulated processors. Throws the system error if the port cannot be
 * listened on.
 */
export async function startEnvd(options: EnvdOptions = {}): Promise<Envd> {
  let services: Promise<Services> | undefined;
  const loadServices = (): Promise<Services> => {
    services ??= import('./services.ts').then(({ Services }) => new Services(options));
    return services;
  };
  const server = createServer(SOCKET_OPTIONS, (request, response) => {
    if (handleCors(request, response)) return;
    if (isHealthCheck(request)) return respondHealthy(response);
    loadServices().then(
      (loaded) => loaded.handle(request, response),
      (error: unknown) => {
        console.error(error);
        response.writeHead(500).end();
      },
    );
  });
  server.keepAliveTimeout = IDLE_TIMEOUT_MS;
  // Uploads and streams have no time limit; only the header must arrive soon.
  server.requestTimeout = 0;
  server.timeout = 0;
  const port = await listen(server, options);
  const loaded = loadServices();
  const forwarder =
    options.forwardTo === undefined
      ? undefined
      : (await import('./forwarder/forwarder.ts')).startForwarder({
          address: options.forwardTo,
          exclude: [port],
        });
  const close = async (): Promise<void> => {
    forwarder?.close();
    (await loaded).close();
    const closed = new Promise<void>((resolve) => server.close(() => resolve()));
    server.closeAllConnections();
    await closed;
  };
  return { port, close, [Symbol.asyncDispose]: close };
}

function isHealthCheck(request: IncomingMessage): boolean {
  return request.url === '/health' && (request.method === 'GET' || request.method === 'HEAD');
}

function respondHealthy(response: ServerResponse): void {
  response.writeHead(204, { 'Cache-Control': 'no-store' }).end();
}

function listen(server: Server, options: EnvdOptions): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen({ port: options.port ?? DEFAULT_PORT, host: options.host ?? '127.0.0.1' }, () => {
      server.off('error', reject);
      resolve((server.address() as AddressInfo).port);
    });
  });
}
