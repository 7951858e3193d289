import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createClient, createRouterTransport } from '@connectrpc/connect';
import { HostAgent } from '@torpor/agent';
import { GuestSecrets } from '@torpor/agent/testing';
import { GUEST, hostAgent, type InitRequest, newId } from '@torpor/protocol';
import { GUEST_OPTIONS, openDataDirWithBoots } from '@torpor/testkit/guests';
import { pino } from 'pino';
import { CACHE_DIR } from '../agent/agent-under-test.ts';
import type { ConformanceTarget } from './harness.ts';

const SHAPE = { vcpus: 1, memoryMiB: 512, diskMiB: 2048 } as const;

/** The envd of a real guest, which is ready and has its identity; `stack` stops the guest. */
export async function guestTarget(stack: AsyncDisposableStack): Promise<ConformanceTarget> {
  const { path: dataDir } = stack.use(await openDataDirWithBoots(CACHE_DIR, SHAPE));
  const agent = await HostAgent.open({
    ...GUEST_OPTIONS,
    dataDir,
    cacheDir: CACHE_DIR,
    forcedAccelerator: 'tcg',
    logger: pino({ level: 'warn' }, pino.destination(2)),
    network: { poolSize: 1 },
  });
  stack.defer(() => agent.close({ destroyAll: true }));
  const client = createClient(
    hostAgent.HostAgentService,
    createRouterTransport((router) => agent.routes(router)),
  );
  const sandboxId = newId('sandbox');
  const { hostIp } = await client.createSandbox({
    sandboxId,
    vcpus: SHAPE.vcpus,
    memoryMb: SHAPE.memoryMiB,
    diskSizeMb: SHAPE.diskMiB,
  });
  const url = `http://${hostIp}:${GUEST.envdPort}`;
  const secrets = new GuestSecrets(await readFile(join(dataDir, 'keys', 'guest.key')));
  const accessToken = secrets.accessToken(sandboxId);
  await nameGuest(url, accessToken);
  return {
    url,
    accessToken,
    user: GUEST.defaultUser,
    workdir: `/home/${GUEST.defaultUser}`,
    isGuest: true,
  };
}

/** Gives the guest the names that the suites expect. */
async function nameGuest(url: string, accessToken: string): Promise<void> {
  const request: InitRequest = {
    accessToken,
    defaultUser: GUEST.defaultUser,
    timestamp: new Date().toISOString(),
    entropy: randomBytes(64).toString('base64'),
    hostname: 'conformance',
    machineId: 'c0'.repeat(16),
  };
  const init = await fetch(`${url}/init`, { method: 'POST', body: JSON.stringify(request) });
  if (init.status !== 204) throw new Error(`/init: ${init.status} ${await init.text()}`);
}
