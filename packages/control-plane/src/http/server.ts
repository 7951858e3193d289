import { once } from 'node:events';
import type { Server } from 'node:http';
import { createAdaptorServer } from '@hono/node-server';
import { TorporError } from '@torpor/protocol';
import type { Api } from './endpoint.ts';

export interface HttpServer {
  readonly url: string;
  readonly server: Server;
  /** Takes no new connections, lets requests that are under way finish for `graceMs`, then ends them. */
  close(graceMs: number): Promise<void>;
}

/** Throws `host_setup` if the address cannot be listened on. */
export async function listen(api: Api, host: string, port: number): Promise<HttpServer> {
  const server = createAdaptorServer({ fetch: api.fetch }) as Server;
  // A whole upload may take as long as it takes; the head of a request may not.
  server.requestTimeout = 0;
  server.headersTimeout = 30_000;
  server.keepAliveTimeout = 75_000;
  try {
    server.listen(port, host);
    await once(server, 'listening');
  } catch (error) {
    throw listenError(error, host, port);
  }
  const address = server.address();
  const actualPort = typeof address === 'object' && address !== null ? address.port : port;
  return {
    url: `http://${host.includes(':') ? `[${host}]` : host}:${actualPort}`,
    server,
    async close(graceMs) {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeIdleConnections();
      const force = setTimeout(() => server.closeAllConnections(), graceMs);
      await closed;
      clearTimeout(force);
    },
  };
}

function listenError(error: unknown, host: string, port: number): TorporError {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  if (code === 'EADDRINUSE') {
    return new TorporError('host_setup', `Port ${port} of ${host} is in use.`, {
      remedy: 'Choose another one with TORPOR_PORT, or stop what uses it.',
      cause: error,
    });
  }
  return new TorporError('host_setup', `The API cannot listen on ${host}:${port}: ${error}`, {
    remedy: 'Check the address and the rights of this user.',
    cause: error,
  });
}
