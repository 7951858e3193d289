import { mkdtemp, readdir, readFile, realpath, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { instanceTag } from '@torpor/agent/testing';
import { newId } from '@torpor/protocol';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { leftovers, run, text, vmmsOf } from './agent-under-test.ts';
import { KillableAgent } from './killable-agent.ts';

/*
 * A real guest whose agent, and then whose pager, is killed while it is paused,
 * resumed, and running. It counts in its memory and in a file, and must continue from
 * the same count in every case. A campaign raises the number of kills.
 */
const KILLS = Number(process.env.TORPOR_AGENT_KILLS ?? 3);
/** Pausing and resuming take about this long under emulation. */
const LONGEST_MS = Number(process.env.TORPOR_AGENT_KILL_WITHIN_MS ?? 3_000);

const COUNTER = `
import socket
log = open('/home/user/log', 'a', buffering=1)
server = socket.create_server(('127.0.0.1', 9000))
count = 0
while True:
    connection, _ = server.accept()
    count += 1
    log.write(f'{count}\\n')
    connection.sendall(str(count).encode())
    connection.close()
`;

const COUNT = `for i in $(seq 100); do
  (exec 3<>/dev/tcp/127.0.0.1/9000 && cat <&3 && echo && tail -n 1 /home/user/log) 2>/dev/null && exit
  sleep 0.1
done
exit 1`;

let dataDir: string;
let agent: KillableAgent;
/** The first is restored by the pager, the other has booted and needs none. */
const [subject, bystander] = [newId('sandbox'), newId('sandbox')];
let counted = 0;

beforeAll(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'torpor-crash-'));
  agent = new KillableAgent(dataDir);
  await agent.start();
});
afterAll(async () => {
  await agent.end('SIGKILL');
  await agent.start({ DESTROY_ALL: '1' });
  await agent.end('SIGTERM');
  await rm(dataDir, { recursive: true, force: true });
});

/** The guest keeps counting, and its memory and its file agree with the previous count. */
async function expectToContinue(): Promise<void> {
  const { exitCode, stdout } = await agent.client.exec({
    sandboxId: subject,
    cmd: '/bin/bash',
    args: ['-c', COUNT],
  });
  expect({ exitCode, counts: text(stdout) }).toEqual({
    exitCode: 0,
    counts: `${counted + 1}\n${counted + 1}\n`,
  });
  counted++;
}

async function stateOf(sandboxId: string) {
  const { sandbox } = await agent.client.getSandbox({ sandboxId });
  return { status: sandbox?.status, reason: sandbox?.reason };
}

async function expectSoundBuilds(): Promise<void> {
  for await (const { buildId, fault } of agent.client.verifyBuilds({})) {
    expect({ buildId, fault }).toEqual({ buildId, fault: undefined });
  }
}

async function pagerPid(): Promise<number> {
  for (const entry of await readdir('/proc')) {
    if (!/^[0-9]+$/.test(entry)) continue;
    const commandLine = await readFile(`/proc/${entry}/cmdline`, 'utf8').catch(() => '');
    const isPager = commandLine.includes('/pager/') && commandLine.includes('--socket');
    const instance = instanceTag(await realpath(dataDir));
    if (isPager && (commandLine.includes(dataDir) || commandLine.includes(instance))) {
      return Number(entry);
    }
  }
  throw new Error('no pager runs');
}

describe('a guest whose agent is killed', () => {
  test('while it runs from the pager: the next agent adopts both', async () => {
    const shape = { vcpus: 1, memoryMb: 256, diskSizeMb: 1024, templateId: 'base' };
    await agent.client.createSandbox({ sandboxId: bystander, ...shape });
    await agent.client.createSandbox({ sandboxId: subject, ...shape });
    await agent.client.startBackground({
      sandboxId: subject,
      cmd: 'python3',
      args: ['-u', '-c', COUNTER],
    });
    await expectToContinue();
    const pager = await pagerPid();
    await agent.end('SIGKILL');
    await agent.start();
    expect(await stateOf(subject)).toEqual({ status: 'running', reason: undefined });
    expect(await pagerPid()).toBe(pager);
    await expectToContinue();
  });

  test(`while it is paused or resumed, ${KILLS} times: it exists and continues`, async () => {
    for (let kill = 0; kill < KILLS; kill++) {
      const { status } = await stateOf(subject);
      const operation =
        status === 'running'
          ? agent.client.pauseSandbox({ sandboxId: subject })
          : agent.client.resumeSandbox({ sandboxId: subject });
      const settled = operation.then(
        () => 'done',
        () => 'interrupted',
      );
      // At a random moment of the operation.
      await sleep(Math.random() * LONGEST_MS);
      await agent.end('SIGKILL');
      await settled;
      await agent.start();
      const after = await stateOf(subject);
      expect(after).toEqual({
        status: expect.stringMatching(/^(?:running|paused)$/),
        reason: undefined,
      });
      expect(await vmmsOf(subject)).toHaveLength(after.status === 'running' ? 1 : 0);
      await expectSoundBuilds();
      // Every other time its state is left, so that resumes are interrupted too.
      if (kill % 2 === 1 || kill === KILLS - 1) {
        await agent.client.resumeSandbox({ sandboxId: subject });
        await expectToContinue();
      }
    }
  });
});

describe('a guest whose pager is killed', () => {
  test('fails with the reason, one that needs no pager does not; it is resumed from its last build', async () => {
    await agent.client.pauseSandbox({ sandboxId: subject });
    await agent.client.resumeSandbox({ sandboxId: subject });
    process.kill(await pagerPid(), 'SIGKILL');
    await expect
      .poll(() => stateOf(subject), { timeout: 5_000, interval: 50 })
      .toEqual({ status: 'error', reason: expect.stringMatching(/page server/) });
    expect(await vmmsOf(subject)).toEqual([]);
    expect(await stateOf(bystander)).toEqual({ status: 'running', reason: undefined });
    expect(await run(agent.client, bystander, 'echo here')).toBe('here\n');
    await agent.client.resumeSandbox({ sandboxId: subject });
    await expectToContinue();
  });

  test('while no agent runs: the next one reports that, and resumes it', async () => {
    await agent.client.pauseSandbox({ sandboxId: subject });
    await agent.client.resumeSandbox({ sandboxId: subject });
    await agent.end('SIGKILL');
    process.kill(await pagerPid(), 'SIGKILL');
    await agent.start();
    expect(await stateOf(subject)).toEqual({
      status: 'error',
      reason: expect.stringMatching(/page server/),
    });
    expect(await vmmsOf(subject)).toEqual([]);
    await agent.client.resumeSandbox({ sandboxId: subject });
    await expectToContinue();
  });
});

test('finally all builds are valid and nothing is left', async () => {
  await expectSoundBuilds();
  for (const sandboxId of [subject, bystander]) await agent.client.destroySandbox({ sandboxId });
  await agent.end('SIGTERM');
  expect(await leftovers(instanceTag(await realpath(dataDir)), dataDir)).toEqual([]);
});
