import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, realpath, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { instanceTag } from '@torpor/agent';
import { newId } from '@torpor/protocol';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type AgentClient, clientOf, leftovers, run, text, vmmsOf } from './agent-under-test.ts';

/*
 * Two sandboxes outlive their agent, which is killed, and its successor has them as
 * they were. Then the VMM of one is killed: only that sandbox is lost, and it says why.
 */

const AGENT = fileURLToPath(new URL('./agent-process.ts', import.meta.url));
const START_TIMEOUT_MS = 300_000;

let dataDir: string;
let agent: ChildProcess | undefined;
let client: AgentClient;
const [first, second] = [newId('sandbox'), newId('sandbox')];

/** Starts an agent and waits until it serves. */
async function startAgent(environment: Record<string, string> = {}): Promise<void> {
  const child = spawn(process.execPath, [AGENT, dataDir], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, ...environment },
  });
  agent = child;
  const lines = createInterface({ input: child.stdout });
  const [line] = await once(lines, 'line', { signal: AbortSignal.timeout(START_TIMEOUT_MS) });
  client = clientOf((JSON.parse(line) as { port: number }).port);
}

/** Ends the agent with a signal and waits until it is gone. */
async function endAgent(signal: NodeJS.Signals): Promise<void> {
  if (agent === undefined || agent.exitCode !== null || agent.signalCode !== null) return;
  const exited = once(agent, 'exit');
  agent.kill(signal);
  await exited;
}

async function stateOf(sandboxId: string) {
  const { sandbox } = await client.getSandbox({ sandboxId });
  return { status: sandbox?.status, reason: sandbox?.reason };
}

beforeAll(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'torpor-adoption-'));
  await startAgent();
});
afterAll(async () => {
  // Whatever a test left running is destroyed by an agent that ends in order.
  await endAgent('SIGKILL');
  await startAgent({ DESTROY_ALL: '1' });
  await endAgent('SIGTERM');
  await rm(dataDir, { recursive: true, force: true });
});

describe('an agent that is killed and started again', () => {
  test('has its sandboxes as they were', async () => {
    for (const sandboxId of [first, second]) {
      await client.createSandbox({ sandboxId, vcpus: 1, memoryMb: 256, diskSizeMb: 1024 });
      await run(client, sandboxId, `echo ${sandboxId} > /home/user/name; sleep 900 > /dev/null &`);
    }
    await endAgent('SIGKILL');
    expect(await vmmsOf(first)).toHaveLength(1);
    expect(await vmmsOf(second)).toHaveLength(1);
    await startAgent();
    for (const sandboxId of [first, second]) {
      expect(await stateOf(sandboxId)).toEqual({ status: 'running', reason: '' });
      expect(await run(client, sandboxId, 'cat /home/user/name; pgrep -c sleep')).toBe(
        `${sandboxId}\n1\n`,
      );
    }
  });

  test('tells within five seconds which VMM was killed, and the other sandbox does not notice', async () => {
    const [pid] = await vmmsOf(first);
    if (pid === undefined) throw new Error('no VMM');
    process.kill(pid, 'SIGKILL');
    await expect
      .poll(() => stateOf(first), { timeout: 5_000, interval: 50 })
      .toEqual({ status: 'error', reason: expect.stringMatching(/QEMU/) });
    expect(await stateOf(second)).toEqual({ status: 'running', reason: '' });
    expect(await run(client, second, 'cat /home/user/name')).toBe(`${second}\n`);
    const { content } = await client.readConsole({ sandboxId: first });
    expect(text(content)).toMatch(/envd/);
  });

  test('lets its sandboxes run when it is stopped in order', async () => {
    await endAgent('SIGTERM');
    expect(await vmmsOf(second)).toHaveLength(1);
    await startAgent();
    expect(await run(client, second, 'cat /home/user/name')).toBe(`${second}\n`);
    expect(await stateOf(first)).toMatchObject({ status: 'error' });
  });

  test('takes down a sandbox that was half-made, and says so', async () => {
    const sandboxId = newId('sandbox');
    const creation = client
      .createSandbox({ sandboxId, vcpus: 1, memoryMb: 128, diskSizeMb: 1024 })
      .then(
        () => 'created',
        () => 'failed',
      );
    await expect.poll(() => vmmsOf(sandboxId), { timeout: 60_000 }).toHaveLength(1);
    await endAgent('SIGKILL');
    expect(await creation).toBe('failed');
    await startAgent();
    expect(await stateOf(sandboxId)).toEqual({
      status: 'error',
      reason: 'The host agent ended while the sandbox was creating.',
    });
    expect(await vmmsOf(sandboxId)).toEqual([]);
    expect(await stateOf(second)).toEqual({ status: 'running', reason: '' });
    await client.destroySandbox({ sandboxId });
  });

  test('removes the failed sandbox and the living one without a trace', async () => {
    await client.destroySandbox({ sandboxId: first });
    await client.destroySandbox({ sandboxId: second });
    expect((await client.listSandboxes({})).sandboxes).toEqual([]);
    await endAgent('SIGTERM');
    const instance = instanceTag(await realpath(dataDir));
    expect(await leftovers(instance, dataDir)).toEqual([]);
  });
});
