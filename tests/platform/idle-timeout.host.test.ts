import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Reaper, reapIdle } from '@torpor/agent/testing';
import { ControlPlane } from '@torpor/control-plane';
import { type Sandbox, Torpor } from '@torpor/sdk';
import {
  type RpcAgent,
  silentLogger,
  startRpcAgent,
  TRANSPORTS,
  type TransportName,
} from '@torpor/testkit/agent';
import { cli } from '@torpor/testkit/cli';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

/*
 * The whole path from the clients to the agent, in one process as in `torpor up` or over HTTP,
 * with an envd on this machine instead of a guest: after any use by a client, and after any way
 * to disconnect, the sandbox is idle and destroyed in time. Only the tests advance the agent's
 * clock.
 */

const IDLE_MS = 60_000;

let resources: AsyncDisposableStack;
let agent: RpcAgent;
let torpor: Torpor;
let sandbox: Sandbox;
let directory: string;
let env: Record<string, string>;

async function start(transport: TransportName): Promise<void> {
  resources = new AsyncDisposableStack();
  agent = resources.use(await startRpcAgent());
  directory = await mkdtemp(join(tmpdir(), 'torpor-idle-'));
  resources.defer(() => rm(directory, { recursive: true, force: true }));
  const logger = silentLogger();
  resources.use(new Reaper(agent.registry, logger));
  const controlPlane = resources.use(
    await ControlPlane.start({
      dataDir: directory,
      host: '127.0.0.1',
      port: 0,
      hostTransport: agent.transports[transport],
      logger,
      version: '0.0.0-test',
    }),
  );
  const { url: apiUrl, apiKey } = controlPlane;
  env = { TORPOR_API_URL: apiUrl, TORPOR_API_KEY: apiKey };
  torpor = resources.use(new Torpor({ apiUrl, apiKey }));
  sandbox = await torpor.sandboxes.create({ memoryMiB: 128, idleTimeoutMs: IDLE_MS });
  await writeFile(join(directory, 'large'), Buffer.alloc(64 * 1024 * 1024));
}

/** While a sandbox is in use, the time of its last use is always now. */
async function expectIdle(): Promise<void> {
  const inUse = async () => {
    const before = agent.registry.get(sandbox.id).lastActiveAt;
    await new Promise((resolve) => setTimeout(resolve, 5));
    return agent.registry.get(sandbox.id).lastActiveAt !== before;
  };
  await expect.poll(inUse, { timeout: 20_000 }).toBe(false);
}

const user = process.env.USER ?? 'root';
const as = { user };
const endless = ['-c', 'while sleep 0.01; do echo x; done'] as const;

const USES: Record<string, () => Promise<unknown>> = {
  'a streamed program, to its end': async () => {
    await using session = await sandbox.execStream('echo', ['x'], as);
    expect(await session.wait()).toEqual({ exitCode: 0 });
  },
  'a streamed program that is left': async () => {
    await using session = await sandbox.execStream('sh', endless, as);
    for await (const _ of session.output()) break;
  },
  'a streamed program whose output is not read': async () => {
    await using session = await sandbox.execStream('yes', [], as);
    expect(session.pid).toBeGreaterThan(0);
  },
  'a terminal, to its end': async () => {
    await using session = await sandbox.pty({ ...as, cmd: 'true' });
    await session.wait();
  },
  'a terminal that is left, found again and killed': async () => {
    let tag: string;
    {
      await using session = await sandbox.pty({ ...as, cmd: 'cat' });
      tag = session.tag;
    }
    await using session = await sandbox.connectPty(tag);
    await session.kill();
    await session.wait();
  },
  'an attached process that is left': async () => {
    const { tag } = await sandbox.start('sh', endless, as);
    {
      await using session = await sandbox.processes.connect(tag);
      for await (const _ of session.output()) break;
    }
    await sandbox.processes.kill(tag);
  },
  'a download that is left early': async () => {
    const content = await sandbox.files.readStream(join(directory, 'large'), as);
    for await (const _ of content) break;
    content.destroy();
  },
  'a download that is aborted before it is read': async () => {
    const abort = new AbortController();
    const path = join(directory, 'large');
    const content = await sandbox.files.readStream(path, { ...as, signal: abort.signal });
    content.on('error', () => undefined);
    abort.abort();
  },
  'a HEAD request': async () => {
    const { TORPOR_API_URL: apiUrl, TORPOR_API_KEY: apiKey = '' } = env;
    const path = encodeURIComponent(join(directory, 'large'));
    const url = `${apiUrl}/v1/sandboxes/${sandbox.id}/files?path=${path}&user=${user}`;
    const { status } = await fetch(url, { method: 'HEAD', headers: { 'x-api-key': apiKey } });
    expect(status).toBe(200);
  },
  // Not `cp`, which needs the agent drive of a guest.
  'the CLI: exec, exec of a program that leaves its input, ps': async () => {
    for (const args of [
      ['exec', '-u', user, sandbox.id, '--', 'true'],
      ['exec', '-u', user, sandbox.id, '--', 'head', '-c', '1'],
      ['ps', sandbox.id],
    ]) {
      const stdin = Buffer.alloc(4 * 1024 * 1024);
      expect(await cli(args, { env, stdin })).toMatchObject({ exitCode: 0 });
    }
  },
};

describe.each(TRANSPORTS)('over %s', (transport) => {
  beforeAll(() => start(transport));
  afterAll(() => resources.disposeAsync());

  test.each(Object.entries(USES))('idle after %s', async (_, use) => {
    await use();
    await expectIdle();
  });

  test('it is in use while a stream is open, and is destroyed after its idle timeout', async () => {
    {
      await using session = await sandbox.execStream('sleep', ['600'], as);
      agent.host.clock += 10 * IDLE_MS;
      await reapIdle(agent.registry);
      expect((await sandbox.refresh()).status).toBe('running');
      expect(session.pid).toBeGreaterThan(0);
    }
    await expectIdle();
    agent.host.clock += IDLE_MS - 1;
    await reapIdle(agent.registry);
    expect((await sandbox.refresh()).status).toBe('running');
    agent.host.clock += 1;
    const status = async () => (await sandbox.refresh()).status;
    await expect.poll(status, { timeout: 20_000 }).toBe('stopped');
  });
});
