import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { createRouterTransport, type Transport } from '@connectrpc/connect';
import { connectNodeAdapter, createConnectTransport } from '@connectrpc/connect-node';
import { agentRoutes, destroyAll, SandboxRegistry } from '@torpor/agent/testing';
import { PlainEnvd } from './plain-envd.ts';
import { StubHost, silentLogger } from './stub-host.ts';

/** The transports to an agent: `torpor up` uses the in-process one. */
export const TRANSPORTS = ['HTTP', 'the in-process transport'] as const;
export type TransportName = (typeof TRANSPORTS)[number];

/** The RPCs of an agent on a stub host, with the real envd as a process on this host. */
export interface RpcAgent extends AsyncDisposable {
  readonly host: StubHost;
  readonly registry: SandboxRegistry;
  readonly transports: Readonly<Record<TransportName, Transport>>;
}

export async function startRpcAgent(): Promise<RpcAgent> {
  await using stack = new AsyncDisposableStack();
  const envd = stack.use(await PlainEnvd.start());
  const host = stack.use(await StubHost.open());
  const registry = new SandboxRegistry(host.parts({ guestUrl: () => envd.url }));
  stack.defer(() => destroyAll(registry));
  const description = {
    dataDir: host.layout.dataDir,
    limits: { maxVcpus: 4, maxMemoryMiB: 4096, maxDiskMiB: 1 },
    versions: { agent_version: '0.1.0' },
    images: { list: async () => [{ name: 'base', sizeBytes: 7, createdAt: 5000 }] },
    capacity: async () => ({ memoryMb: 4096n, vcpus: 4 }),
  };
  const logger = silentLogger();
  const routes = agentRoutes({ registry, description, logger, onTerminate: () => undefined });
  const server = createServer(connectNodeAdapter({ routes }));
  stack.defer(() => closeServer(server));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const transports = {
    HTTP: createConnectTransport({ baseUrl: `http://127.0.0.1:${port}`, httpVersion: '1.1' }),
    'the in-process transport': createRouterTransport(routes),
  };
  const moved = stack.move();
  return { host, registry, transports, [Symbol.asyncDispose]: () => moved.disposeAsync() };
}

async function closeServer(server: Server): Promise<void> {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
}
