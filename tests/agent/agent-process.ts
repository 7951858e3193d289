import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { connectNodeAdapter } from '@connectrpc/connect-node';
import { HostAgent } from '@torpor/agent';
import { GUEST_OPTIONS } from '@torpor/testkit/guests';
import { pino } from 'pino';
import { CACHE_DIR } from './agent-under-test.ts';

/*
 * A host agent as a separate process, so that it can be killed. Its argument is
 * the data directory; it prints one line of JSON when it is ready, and stops in
 * order at SIGTERM, leaving its sandboxes running.
 */

const [dataDir] = process.argv.slice(2);
if (dataDir === undefined) throw new Error('usage: agent-process.ts DATA_DIR');
const agent = await HostAgent.open({
  ...GUEST_OPTIONS,
  dataDir,
  cacheDir: CACHE_DIR,
  logger: pino({ level: 'warn' }, pino.destination(2)),
  network: { poolSize: 1 },
  ...(process.env.TORPOR_ACCELERATOR === 'kvm' ? { forcedAccelerator: 'kvm' as const } : {}),
});
const server = createServer(connectNodeAdapter({ routes: (router) => agent.routes(router) }));
await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
process.once('SIGTERM', () => {
  server.closeAllConnections();
  server.close();
  void agent.close({ destroyAll: process.env.DESTROY_ALL === '1' }).then(() => process.exit(0));
});
process.stdout.write(`${JSON.stringify({ port: (server.address() as AddressInfo).port })}\n`);
