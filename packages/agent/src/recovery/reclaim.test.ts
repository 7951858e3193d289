import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, open, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { newBuildId } from '@torpor/builds';
import { newId, type SandboxState } from '@torpor/protocol';
import { request, StubHost, type StubVm } from '@torpor/testkit/agent';
import { afterEach, beforeEach, describe, expect, onTestFinished, test } from 'vitest';
import { createSandbox } from '../lifecycle/create.ts';
import { destroySandbox } from '../lifecycle/destroy.ts';
import { pauseSandbox } from '../lifecycle/pause.ts';
import { resumeSandbox } from '../lifecycle/resume.ts';
import { readRecord, type SandboxRecord, writeRecord } from '../registry/record.ts';
import { SandboxRegistry } from '../registry/registry.ts';
import { recoverSandboxes } from './recover.ts';

let host: StubHost;
let vms: StubVm[];

beforeEach(async () => {
  host = await StubHost.open();
  vms = [];
  host.driver.afterStart = (vm) => vms.push(vm);
});
afterEach(() => host[Symbol.asyncDispose]());

/** The next agent of this host, after its predecessor was killed. */
async function nextAgent(): Promise<SandboxRegistry> {
  await host.restart();
  const parts = host.parts();
  return host.manage(await recoverSandboxes(parts));
}

/** A sandbox whose agent has exited and writes nothing any more. */
async function runningSandbox(): Promise<SandboxRecord> {
  const registry = new SandboxRegistry(host.parts());
  const { record } = await createSandbox(registry, request());
  await registry.close();
  return record;
}

/** As if the agent had been killed with the sandbox in this state. */
async function interruptedIn(state: SandboxState): Promise<SandboxRecord> {
  const record = await runningSandbox();
  await writeRecord(host.layout.recordFile(record.id), { ...record, state });
  return record;
}

function endGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // All of it has exited.
  }
}

describe('an agent that starts after another was killed', () => {
  test('adopts running sandboxes, and can destroy them', async () => {
    const [first, second] = [await runningSandbox(), await runningSandbox()];
    const registry = await nextAgent();
    expect(registry.list().map(({ id, state }) => [id, state])).toEqual(
      expect.arrayContaining([
        [first.id, 'running'],
        [second.id, 'running'],
      ]),
    );
    expect((await registry.use(first.id)).guest.sandboxId).toBe(first.id);
    expect(host.driver.living()).toHaveLength(2);
    expect(host.guests.inits).toHaveLength(2);
    await destroySandbox(registry, first.id);
    expect(registry.get(second.id)).toMatchObject({ state: 'running', slot: second.slot });
    await destroySandbox(registry, second.id);
    expect(await host.leftovers()).toEqual([]);
  });

  test('notices the exit of a VMM that it adopted', async () => {
    const { id } = await runningSandbox();
    const registry = await nextAgent();
    vms[0]?.die();
    await expect
      .poll(() => registry.get(id), { timeout: 10_000 })
      .toMatchObject({ state: 'error', reason: expect.stringMatching(/SIGKILL/) });
  });

  test('gives a new sandbox neither the slot nor the user of one that it adopted', async () => {
    const old = await runningSandbox();
    const registry = await nextAgent();
    const { record } = await createSandbox(registry, request());
    expect(record.slot?.index).not.toBe(old.slot?.index);
    expect(record.uid).not.toBe(old.uid);
  });

  test('reports a sandbox whose VMM has exited meanwhile, and releases its resources', async () => {
    const { id } = await runningSandbox();
    vms[0]?.die();
    await vms[0]?.exited;
    const registry = await nextAgent();
    expect(registry.get(id)).toMatchObject({
      state: 'error',
      reason: 'The VMM exited while no host agent was running.',
    });
    expect(await host.leftovers()).toEqual([id]);
    await destroySandbox(registry, id);
    expect(await host.leftovers()).toEqual([]);
  });

  test('adopts sandboxes whose records an earlier version of Torpor wrote', async () => {
    const booted = await runningSandbox();
    const restored = await runningSandbox();
    const before = await nextAgent();
    await pauseSandbox(before, restored.id);
    await resumeSandbox(before, restored.id);
    await before.close();
    for (const id of [booted.id, restored.id]) {
      const path = host.layout.recordFile(id);
      const { machine, memory, ...record } = JSON.parse(await readFile(path, 'utf8'));
      const { memoryOrigin: _origin, ...machineThen } = machine;
      const { buildId: parentId } = memory.base;
      const memoryThen = { ...(parentId && { parentId }), servedAs: memory.servedAs };
      await writeFile(
        path,
        JSON.stringify({ ...record, formatVersion: 1, machine: machineThen, memory: memoryThen }),
      );
    }
    const registry = await nextAgent();
    expect(registry.get(booted.id)).toMatchObject({
      state: 'running',
      memory: { base: { kind: 'unknown' } },
    });
    expect(registry.get(restored.id)).toMatchObject({
      state: 'running',
      machine: { memoryOrigin: 'userfaultfd' },
      memory: { base: { kind: 'unknown', buildId: expect.any(String) } },
    });
    for (const id of [booted.id, restored.id]) {
      await pauseSandbox(registry, id);
      await resumeSandbox(registry, id);
      await using memory = await open(host.layout.memoryFile(id));
      const { buffer } = await memory.read(Buffer.alloc(3), 0, 3, 0);
      expect(buffer.toString()).toBe('ram');
      await destroySandbox(registry, id);
    }
    expect(await host.leftovers()).toEqual([]);
  });

  test('does not report the pager as the cause of the exit of a VMM that it served', async () => {
    const { id } = await runningSandbox();
    const before = await nextAgent();
    await pauseSandbox(before, id);
    await resumeSandbox(before, id);
    await before.close();
    const { memory } = (await readRecord(host.layout.recordFile(id))) ?? {};
    expect(memory?.servedAs).toBeDefined();
    vms.at(-1)?.die();
    await vms.at(-1)?.exited;
    await host.pages.release(memory?.servedAs ?? '');
    const registry = await nextAgent();
    expect(registry.get(id).reason).toBe('The VMM exited while no host agent was running.');
    await destroySandbox(registry, id);
    expect(await host.leftovers()).toEqual([]);
  });

  test('fails what was being created, with the reason', async () => {
    const { id } = await interruptedIn('creating');
    const registry = await nextAgent();
    expect(registry.get(id)).toMatchObject({
      state: 'error',
      reason: 'The host agent exited while the sandbox was being created.',
    });
    expect(await host.leftovers()).toEqual([id]);
    await destroySandbox(registry, id);
    expect(await host.leftovers()).toEqual([]);
  });

  test.each(['pausing', 'snapshotting'] as const)(
    'keeps running what was %s while its build was not made',
    async (state) => {
      const { id } = await interruptedIn(state);
      const registry = await nextAgent();
      expect(registry.get(id).state).toBe('running');
      expect(host.driver.living()).toHaveLength(1);
      await destroySandbox(registry, id);
      expect(await host.leftovers()).toEqual([]);
    },
  );

  test('pauses what was being paused once its build was made', async () => {
    const { id } = await interruptedIn('pausing');
    const buildId = newBuildId();
    await host.builds.references.set('sandbox', id, buildId);
    const registry = await nextAgent();
    expect(registry.get(id)).toMatchObject({ state: 'paused', buildId });
    expect(await host.leftovers()).toEqual([id]);
    await destroySandbox(registry, id);
    expect(await host.leftovers()).toEqual([]);
    expect(host.builds.references.all()).toEqual([]);
  });

  test('pauses what was being resumed, as it was before', async () => {
    const record = await interruptedIn('resuming');
    const buildId = newBuildId();
    await writeRecord(host.layout.recordFile(record.id), { ...record, state: 'resuming', buildId });
    const registry = await nextAgent();
    expect(registry.get(record.id)).toMatchObject({ state: 'paused', buildId });
    expect(await host.leftovers()).toEqual([record.id]);
  });

  test('finishes what was being destroyed', async () => {
    await interruptedIn('destroying');
    const registry = await nextAgent();
    expect(registry.list()).toEqual([]);
    expect(await host.leftovers()).toEqual([]);
  });

  test('removes what was made before the sandbox had a record', async () => {
    const id = newId('sandbox');
    await mkdir(host.layout.sandboxDirectory(id));
    await mkdir(host.layout.runDirectory(id));
    await writeFile(host.layout.memoryFile(id), '');
    await host.journal.record(id, { kind: 'network-slot', index: 5 });
    const registry = await nextAgent();
    expect(registry.list()).toEqual([]);
    expect(await host.leftovers()).toEqual([]);
  });

  test('kills a VMM that is in no journal entry, and no other program', async () => {
    const { runDirectory } = host.layout;
    const id = newId('sandbox');
    await mkdir(runDirectory(id));
    const start = async (argument: string) => {
      const child = spawn('/bin/sh', ['-c', 'sleep 620; exit 1', argument], { detached: true });
      onTestFinished(() => {
        // The shell's `sleep` is in its process group.
        if (child.pid !== undefined && child.exitCode === null) endGroup(child.pid);
      });
      await once(child, 'spawn');
      return child;
    };
    const controlSocket = (directory: string) => `socket,path=${join(directory, 'qmp.sock')},id=c`;
    const orphan = await start(controlSocket(runDirectory(id)));
    const others = [await start(runDirectory(id)), await start(controlSocket('/elsewhere'))];
    const exited = once(orphan, 'exit');
    await nextAgent();
    expect(await exited).toEqual([null, 'SIGKILL']);
    expect(others.map((child) => child.signalCode)).toEqual([null, null]);
  });

  test('does not touch a process with the recycled pid of a VMM', async () => {
    const { id } = await runningSandbox();
    vms[0]?.die();
    await vms[0]?.exited;
    const other = spawn('sleep', ['600'], { stdio: 'ignore' });
    onTestFinished(() => void other.kill('SIGKILL'));
    await once(other, 'spawn');
    const recycled = { pid: other.pid ?? -1, startTimeTicks: '1' };
    const record = await readRecord(host.layout.recordFile(id));
    if (record?.machine === undefined) throw new Error('no machine');
    const machine = { ...record.machine, ...recycled };
    await writeRecord(host.layout.recordFile(id), { ...record, machine });
    for (const { resource } of host.journal.entries()) {
      if (resource.kind !== 'process') continue;
      await host.journal.forget(resource);
      await host.journal.record(id, { ...resource, ...recycled });
    }
    const registry = await nextAgent();
    expect(registry.get(id)).toMatchObject({ state: 'error' });
    expect(other.signalCode).toBeNull();
    expect(host.journal.entries()).toEqual([]);
  });

  test('does not touch the slots that the pool keeps ready', async () => {
    await host.journal.record('pool', { kind: 'network-slot', index: 9 });
    await nextAgent();
    expect(host.journal.entries()).toEqual([
      { owner: 'pool', resource: { kind: 'network-slot', index: 9 } },
    ]);
  });

  test.each([
    ['damaged', () => '{"formatVersion":1,'],
    [
      'of a later version',
      (text: string) => text.replace('"formatVersion": 2', '"formatVersion": 3'),
    ],
  ])('does not touch a sandbox whose record is %s', async (_, damage) => {
    const { id } = await runningSandbox();
    const path = host.layout.recordFile(id);
    const damaged = damage(await readFile(path, 'utf8'));
    await writeFile(path, damaged);
    const registry = await nextAgent();
    expect(registry.list()).toEqual([]);
    expect(await readFile(path, 'utf8')).toBe(damaged);
    expect(host.driver.living()).toHaveLength(1);
    expect(await readdir(join(host.layout.runRoot, id))).toEqual([]);
    expect(host.journal.entries().some((entry) => entry.owner === id)).toBe(true);
  });
});
