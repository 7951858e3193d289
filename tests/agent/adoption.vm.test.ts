import { mkdtemp, realpath, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { instanceTag } from '@torpor/agent/testing';
import { newId } from '@torpor/protocol';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { leftovers, run, text, vmmsOf } from './agent-under-test.ts';
import { KillableAgent } from './killable-agent.ts';

/*
 * Two sandboxes outlive their agent, which is killed, and the next agent adopts them
 * unchanged. Then the VMM of one is killed: only that sandbox fails, with the reason.
 */

let dataDir: string;
let agent: KillableAgent;
const [first, second] = [newId('sandbox'), newId('sandbox')];

async function stateOf(sandboxId: string) {
  const { sandbox } = await agent.client.getSandbox({ sandboxId });
  return { status: sandbox?.status, reason: sandbox?.reason };
}

beforeAll(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'torpor-adoption-'));
  agent = new KillableAgent(dataDir);
  await agent.start();
});
afterAll(async () => {
  // Sandboxes that a test left running are destroyed by an agent that stops in order.
  await agent.end('SIGKILL');
  await agent.start({ DESTROY_ALL: '1' });
  await agent.end('SIGTERM');
  await rm(dataDir, { recursive: true, force: true });
});

/** An older kernel reports how a process exited only until its parent has reaped it. */
const KILLED = /^QEMU (?:was terminated by SIGKILL|crashed, or was killed)/;

describe('an agent that is killed and started again', () => {
  test('adopts its sandboxes unchanged', async () => {
    for (const sandboxId of [first, second]) {
      await agent.client.createSandbox({ sandboxId, vcpus: 1, memoryMb: 256, diskSizeMb: 1024 });
      await run(
        agent.client,
        sandboxId,
        `echo ${sandboxId} > /home/user/name; sleep 900 > /dev/null &`,
      );
    }
    await agent.end('SIGKILL');
    expect(await vmmsOf(first)).toHaveLength(1);
    expect(await vmmsOf(second)).toHaveLength(1);
    await agent.start();
    for (const sandboxId of [first, second]) {
      expect(await stateOf(sandboxId)).toEqual({ status: 'running', reason: undefined });
      expect(await run(agent.client, sandboxId, 'cat /home/user/name; pgrep -c sleep')).toBe(
        `${sandboxId}\n1\n`,
      );
    }
  });

  test('reports within five seconds which VMM was killed, and the other sandbox is not affected', async () => {
    const [pid] = await vmmsOf(first);
    if (pid === undefined) throw new Error('no VMM');
    process.kill(pid, 'SIGKILL');
    await expect
      .poll(() => stateOf(first), { timeout: 5_000, interval: 50 })
      .toEqual({ status: 'error', reason: expect.stringMatching(KILLED) });
    expect(await stateOf(second)).toEqual({ status: 'running', reason: undefined });
    expect(await run(agent.client, second, 'cat /home/user/name')).toBe(`${second}\n`);
    const { content } = await agent.client.readConsole({ sandboxId: first });
    expect(text(content)).toMatch(/envd/);
  });

  test('leaves its sandboxes running when it is stopped in order', async () => {
    await agent.end('SIGTERM');
    expect(await vmmsOf(second)).toHaveLength(1);
    await agent.start();
    expect(await run(agent.client, second, 'cat /home/user/name')).toBe(`${second}\n`);
    expect(await stateOf(first)).toMatchObject({ status: 'error' });
  });

  test('removes a sandbox that was only partly created, and reports that', async () => {
    const sandboxId = newId('sandbox');
    const creation = agent.client
      .createSandbox({ sandboxId, vcpus: 1, memoryMb: 128, diskSizeMb: 1024 })
      .then(
        () => 'created',
        () => 'failed',
      );
    await expect.poll(() => vmmsOf(sandboxId), { timeout: 60_000 }).toHaveLength(1);
    await agent.end('SIGKILL');
    expect(await creation).toBe('failed');
    await agent.start();
    expect(await stateOf(sandboxId)).toEqual({
      status: 'error',
      reason: 'The host agent exited while the sandbox was being created.',
    });
    expect(await vmmsOf(sandboxId)).toEqual([]);
    expect(await stateOf(second)).toEqual({ status: 'running', reason: undefined });
    await agent.client.destroySandbox({ sandboxId });
  });

  test('removes the failed sandbox and the running one completely', async () => {
    await agent.client.destroySandbox({ sandboxId: first });
    await agent.client.destroySandbox({ sandboxId: second });
    expect((await agent.client.listSandboxes({})).sandboxes).toEqual([]);
    await agent.end('SIGTERM');
    const instance = instanceTag(await realpath(dataDir));
    expect(await leftovers(instance, dataDir)).toEqual([]);
  });
});
