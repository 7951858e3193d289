import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, readdir, readFile, realpath, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createRouterTransport } from '@connectrpc/connect';
import { HostAgent } from '@torpor/agent';
import { currentKeys, listCacheUsers } from '@torpor/images';
import { createStreamingClient, hostAgent, newId, TorporError } from '@torpor/protocol';
import { ENVD_ENTRY, GUEST_OPTIONS } from '@torpor/testkit/guests';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type AgentClient, CACHE_DIR, leftovers, run, text, vmmsOf } from './agent-under-test.ts';

/* One sandbox in a real guest, from its creation until everything of it is removed. */

let dataDir: string;
let agent: HostAgent;
let client: AgentClient;
const sandboxId = newId('sandbox');

beforeAll(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'torpor-lifecycle-'));
  agent = await HostAgent.open({
    ...GUEST_OPTIONS,
    dataDir,
    cacheDir: CACHE_DIR,
    logger: pino({ level: 'warn' }, pino.destination(2)),
    network: { poolSize: 1 },
  });
  client = createStreamingClient(
    hostAgent.HostAgentService,
    createRouterTransport((router) => agent.routes(router)),
  );
});
afterAll(async () => {
  await agent?.close({ destroyAll: true });
  if (dataDir !== undefined) await rm(dataDir, { recursive: true, force: true });
});

test('the cache knows which data directory uses what of it, so that pruning spares that', async () => {
  const users = await listCacheUsers(CACHE_DIR);
  const own = await realpath(dataDir);
  expect(users.find((user) => user.dataDir === own)?.keys).toEqual(
    await currentKeys({ cacheDir: CACHE_DIR, envdEntry: ENVD_ENTRY }),
  );
});

describe('a sandbox', () => {
  test('is created in a microVM and reports what runs it and how long each phase took', async () => {
    const { sandbox, timings } = await client.createSandbox({
      sandboxId,
      vcpus: 1,
      memoryMb: 256,
      diskSizeMb: 2048,
      templateId: 'base',
      defaultEnv: { LEVEL: 'template', FROM_TEMPLATE: 'yes' },
      envs: { LEVEL: 'sandbox' },
    });
    expect(sandbox).toMatchObject({ sandboxId, status: 'running', vcpus: 1, memoryMb: 256 });
    expect(sandbox?.metadata).toMatchObject({
      vmm: 'qemu',
      envd_version: expect.any(String),
      kernel_version: expect.stringMatching(/^6\./),
    });
    const phases = new Map(timings.map(({ phase, milliseconds }) => [phase, milliseconds]));
    expect(phases.get('boot')).toBeGreaterThan(0);
    const [vmm] = await vmmsOf(sandboxId);
    const status = await readFile(`/proc/${vmm}/status`, 'utf8');
    const uid = Number(/^Uid:\s+(\d+)/m.exec(status)?.[1]);
    expect(uid).toBeGreaterThanOrEqual(900_000);
  });

  test('runs code as the user of its image, with its own identity', async () => {
    const output = await run(
      client,
      sandboxId,
      'id -un; hostname; cat /etc/machine-id; echo "$LEVEL $FROM_TEMPLATE"; python3 -c "print(6*7)"',
    );
    const [user, hostname, machineId, environment, arithmetic] = output.split('\n');
    expect([user, hostname, environment, arithmetic]).toEqual([
      'user',
      sandboxId,
      'sandbox yes',
      '42',
    ]);
    expect(machineId).toMatch(/^[0-9a-f]{32}$/);
  });

  test('has the time of its host', async () => {
    const seconds = Number(await run(client, sandboxId, 'date +%s'));
    expect(Math.abs(seconds - Date.now() / 1000)).toBeLessThan(30);
  });

  test('stores and returns a file unchanged', async () => {
    const content = randomBytes(8 * 1024 * 1024);
    const path = '/home/user/data.bin';
    const meta = { case: 'meta' as const, value: { sandboxId, path } };
    async function* upload() {
      yield { content: meta };
      for (let at = 0; at < content.length; at += 256 * 1024) {
        const value = content.subarray(at, at + 256 * 1024);
        yield { content: { case: 'chunk' as const, value } };
      }
    }
    await client.writeFileStream(upload());
    const digest = createHash('sha256').update(content).digest('hex');
    expect(await run(client, sandboxId, `sha256sum < ${path}`)).toContain(digest);
    const received = createHash('sha256');
    for await (const { chunk } of client.readFileStream({ sandboxId, path }))
      received.update(chunk);
    expect(received.digest('hex')).toBe(digest);
    const { entries } = await client.listDir({ sandboxId, path: '/home/user' });
    expect(entries).toContainEqual(
      expect.objectContaining({ name: 'data.bin', size: BigInt(content.length), owner: 'user' }),
    );
  });

  test('runs a shell on a terminal', async () => {
    let output = '';
    let tag = '';
    for await (const { event } of client.ptyAttach({ sandboxId, cmd: '/bin/bash', args: ['-i'] })) {
      if (event.case === 'started') {
        ({ tag } = event.value);
        await client.ptySendInput({ sandboxId, tag, data: Buffer.from('tty; exit 5\n') });
      }
      if (event.case === 'output') output += text(event.value.data);
      if (event.case === 'exited') expect(event.value.exitCode).toBe(5);
    }
    expect(output).toMatch(/\/dev\/pts\/\d/);
  });

  test.each([
    ['a missing program', { cmd: 'no-such-program' }, 'program_not_found'],
    ['a program that takes too long', { cmd: 'sleep', args: ['60'], timeoutSec: 1 }, 'timeout'],
  ])('names the error for %s', async (_, request, code) => {
    const error = await client.exec({ sandboxId, ...request }).catch((reason: unknown) => reason);
    expect(TorporError.from(error).code).toBe(code);
  });

  test('keeps its console', async () => {
    const { content } = await client.readConsole({ sandboxId });
    expect(text(content)).toMatch(/envd/);
  });

  test('is destroyed when it is idle, also after a streamed program, and leaves nothing', async () => {
    await client.resumeSandbox({ sandboxId, timeoutSec: 2 });
    const events = client.execStream({ sandboxId, cmd: 'true' });
    for await (const { event } of events) if (event.case === 'end') break;
    const living = async () => (await client.listSandboxes({})).sandboxes;
    await expect.poll(living, { timeout: 60_000 }).toEqual([]);
    expect(await vmmsOf(sandboxId)).toEqual([]);
    expect(await readdir(join(dataDir, 'sandboxes'))).toEqual([]);
  });

  test('and neither does the agent', async () => {
    const { instance } = agent;
    await agent.close({ destroyAll: true });
    expect(await leftovers(instance, dataDir)).toEqual([]);
  });
});
