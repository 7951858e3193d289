import { readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { BUILD_FILES } from '@torpor/builds';
import { isProcessAlive } from '@torpor/linux';
import { assertTransition, isId, TorporError } from '@torpor/protocol';
import { killFirecrackerLeftovers, killLeftovers } from '@torpor/vmm';
import type { HostContext } from '../host-context.ts';
import type { RecoveredSandbox } from '../lifecycle/manager.ts';
import { dropStaleReferences } from '../lifecycle/snapshot-operations.ts';
import { adoptMemory } from '../machine/restore.ts';
import { connectGuest, holdMachine } from '../machine/steps.ts';
import { endProcess, takeDownOwned } from '../machine/take-down.ts';
import type { NetworkSlot } from '../network/slot.ts';
import { readRecord, type SandboxRecord, writeRecord } from '../registry/record.ts';
import type { RunningMachine } from '../registry/sandbox.ts';

/*
 * What an agent does when it starts, before it serves anybody. An earlier one may
 * have ended at any point, so nothing is assumed of how far it came:
 *
 * - a sandbox that was running and whose VMM still lives is taken over as it is;
 * - one that was being destroyed is destroyed to the end;
 * - one that was being paused is paused if its build was made, and runs on if not;
 * - one that was being resumed is paused as before;
 * - one that was being created becomes `error`, since its guest may be half-made;
 * - what the journal names and no running sandbox owns is taken down, and so is what
 *   lies in the places that are ours alone (run directories, guest RAM).
 *
 * A record that cannot be read is left alone with everything that it may own.
 */

const HEALTH_TIMEOUT_MS = 15_000;
const POOL_OWNER = 'pool';

/** Returns the sandboxes that there are now. Whatever it cannot free stays in the journal for the next start. */
export async function reclaim(host: HostContext): Promise<RecoveredSandbox[]> {
  const { known, unreadable } = await loadRecords(host);
  const recovered = (await Promise.all(known.map((record) => recover(host, record)))).filter(
    (sandbox) => sandbox !== undefined,
  );
  const running = recovered.filter(({ machine }) => machine !== undefined);
  const living = new Set([...running.map(({ record }) => record.id), ...unreadable]);
  await endOrphans(host, living);
  for (const owner of new Set(host.journal.entries().map((entry) => entry.owner))) {
    if (owner !== POOL_OWNER && !living.has(owner)) await attempt(host, owner, takeDownOwned);
  }
  await removeStrays(host, living);
  const ids = new Set([...recovered.map(({ record }) => record.id), ...unreadable]);
  await dropStaleReferences(host, (id) => ids.has(id));
  return recovered;
}

async function loadRecords(
  host: HostContext,
): Promise<{ known: SandboxRecord[]; unreadable: string[] }> {
  const known: SandboxRecord[] = [];
  const unreadable: string[] = [];
  for (const id of await readdir(host.layout.sandboxesRoot)) {
    if (!isId('sandbox', id)) continue;
    try {
      const record = await readRecord(host.layout.recordFile(id));
      // A directory without a record: the crash came before the sandbox existed.
      if (record === undefined) await removeDirectory(host, id);
      else known.push(record);
    } catch (error) {
      unreadable.push(id);
      host.logger.error({ sandbox: id, err: error }, 'record unreadable, sandbox left alone');
    }
  }
  return { known, unreadable };
}

async function recover(
  host: HostContext,
  record: SandboxRecord,
): Promise<RecoveredSandbox | undefined> {
  switch (record.state) {
    case 'running':
      return adopt(host, record);
    case 'destroying':
    case 'stopped':
      return finishDestroying(host, record);
    case 'creating':
      return fail(host, record, `The host agent ended while the sandbox was ${record.state}.`);
    case 'pausing':
    case 'resuming':
    case 'snapshotting':
      return settle(host, record);
    case 'paused':
    case 'error':
    case 'missing':
      return { record: withLastBuild(host, record) };
  }
}

/**
 * A sandbox that was on its way between running and paused. Its reference tells how
 * far it came: it names another build than the machine's parent as soon as a new one
 * is durable.
 */
async function settle(host: HostContext, record: SandboxRecord): Promise<RecoveredSandbox> {
  const { id, state, memory, machine } = record;
  const referenced = host.snapshots.builds.references.get('sandbox', id);
  const committed = referenced === memory?.parentId ? undefined : referenced;
  const buildId = committed ?? record.buildId;
  if (state === 'pausing' && committed !== undefined) return await paused(host, record, committed);
  if (state === 'resuming' && record.buildId !== undefined) {
    return await paused(host, record, referenced ?? record.buildId);
  }
  if (machine === undefined && buildId !== undefined) return await paused(host, record, buildId);
  await discardTwins(host, id);
  const { parentSnapshot: _snapshot, ...unnumbered } = memory ?? {};
  const present: SandboxRecord = {
    ...record,
    // What was committed while it was to run on is its parent now; of which snapshot, nobody knows.
    memory: committed === undefined ? memory : { ...unnumbered, parentId: committed },
    ...(buildId === undefined ? {} : { buildId }),
  };
  const adopted = await adopt(host, present);
  if (adopted.machine === undefined) return adopted;
  assertTransition(id, state, 'running');
  const running: SandboxRecord = { ...present, state: 'running' };
  await remember(host, running);
  return { record: running, machine: adopted.machine };
}

/** The last build of a sandbox that has one of its own: a crash may have come between its reference and its record. */
function withLastBuild(host: HostContext, record: SandboxRecord): SandboxRecord {
  const referenced = host.snapshots.builds.references.get('sandbox', record.id);
  if (record.buildId === undefined || referenced === undefined) return record;
  return { ...record, buildId: referenced };
}

/**
 * Removes builds that share the disk of a sandbox that runs on: published, but not yet
 * referenced when the crash came.
 */
async function discardTwins(host: HostContext, id: string): Promise<void> {
  const { builds } = host.snapshots;
  const disk = await stat(host.layout.upperDisk(id)).catch(() => undefined);
  if (disk === undefined || disk.nlink < 2) return;
  for (const buildId of await builds.list()) {
    const twin = await stat(builds.path(buildId, BUILD_FILES.disk)).catch(() => undefined);
    if (twin?.ino === disk.ino && twin.dev === disk.dev) await builds.discard(buildId);
  }
}

async function paused(
  host: HostContext,
  record: SandboxRecord,
  buildId: string,
): Promise<RecoveredSandbox> {
  assertTransition(record.id, record.state, 'paused');
  const { machine: _machine, slot: _slot, memory: _memory, ...kept } = record;
  // Its machine, if one is left, goes with all else that no running sandbox owns.
  const settled: SandboxRecord = { ...kept, state: 'paused', buildId };
  await remember(host, settled);
  await rm(host.layout.upperDisk(record.id), { force: true });
  return { record: settled };
}

/** Writes a record. On a full disk the old one stays, from which the next start comes to the same. */
async function remember(host: HostContext, record: SandboxRecord): Promise<void> {
  try {
    await writeRecord(host.layout.recordFile(record.id), record);
  } catch (error) {
    host.logger.error({ sandbox: record.id, err: error }, 'record not written');
  }
}

async function adopt(host: HostContext, record: SandboxRecord): Promise<RecoveredSandbox> {
  const { id } = record;
  try {
    const machine = await adoptMachine(host, record);
    if (machine === undefined) {
      return await fail(host, record, 'VMM ended while the agent was away.');
    }
    host.logger.info({ sandbox: id }, 'sandbox adopted');
    return { record, machine };
  } catch (error) {
    const why = TorporError.from(error).message;
    return await fail(host, record, `The host agent could not take the sandbox over: ${why}`);
  }
}

async function adoptMachine(
  host: HostContext,
  record: SandboxRecord,
): Promise<RunningMachine | undefined> {
  const { id, machine: description, slot: slotRecord, memory } = record;
  if (description === undefined || slotRecord === undefined) return undefined;
  // The pager forgets a machine that has ended, and would be blamed for it.
  if (!isProcessAlive(description)) return undefined;
  await using resources = new AsyncDisposableStack();
  const { servedAs } = memory ?? {};
  const served = servedAs === undefined ? undefined : await adoptMemory(host, servedAs, resources);
  const vm = await host.driver.adopt(description);
  if (vm === undefined) return undefined;
  await using stack = new AsyncDisposableStack();
  stack.defer(() => vm.detach());
  const slot: NetworkSlot = await host.slots.adopt(id, slotRecord.index);
  resources.defer(() => host.slots.release(slot));
  resources.defer(() => takeDownFiles(host, id));
  await holdMachine(host, id, vm, resources);
  if (served !== undefined) served.vm = vm;
  const guest = connectGuest(host, id, slot);
  resources.defer(() =>
    guest.close(new TorporError('invalid_state', `Sandbox ${id} has been destroyed.`)),
  );
  // It may have been stopped to be committed.
  await vm.resume();
  // A guest that is busy keeps running: only its VMM's end is the end of a sandbox.
  if (!(await guest.isHealthy(HEALTH_TIMEOUT_MS))) {
    host.logger.warn({ sandbox: id }, 'the guest of an adopted sandbox does not answer');
  }
  stack.move();
  const fault = () => served?.reason;
  return {
    vm,
    slot,
    guest,
    parentId: memory?.parentId,
    parentSnapshot: memory?.parentSnapshot,
    servedAs,
    fault,
    resources: resources.move(),
  };
}

async function takeDownFiles(host: HostContext, id: string): Promise<void> {
  const directory = { kind: 'directory', path: host.layout.runDirectory(id) } as const;
  const memory = { kind: 'file', path: host.layout.memoryFile(id) } as const;
  await rm(directory.path, { recursive: true, force: true });
  await host.journal.forget(directory);
  await rm(memory.path, { force: true });
  await host.journal.forget(memory);
}

async function fail(
  host: HostContext,
  record: SandboxRecord,
  reason: string,
): Promise<RecoveredSandbox> {
  assertTransition(record.id, record.state, 'error');
  const failed: SandboxRecord = { ...record, state: 'error', reason };
  await remember(host, failed);
  host.logger.warn({ sandbox: record.id, reason }, 'sandbox lost');
  return { record: failed };
}

async function finishDestroying(
  host: HostContext,
  record: SandboxRecord,
): Promise<RecoveredSandbox | undefined> {
  try {
    await takeDownOwned(host, record.id);
    await removeDirectory(host, record.id);
    return undefined;
  } catch (error) {
    const why = TorporError.from(error).message;
    return await fail(host, record, `The sandbox could not be taken down: ${why}`);
  }
}

/**
 * Ends the VMMs of run directories that no running sandbox owns: a crash between the
 * start of a VMM and the journal's entry for it leaves one that only they tell of.
 */
async function endOrphans(host: HostContext, living: ReadonlySet<string>): Promise<void> {
  for (const id of await readdir(host.layout.runRoot)) {
    if (!isId('sandbox', id) || living.has(id)) continue;
    await attempt(host, id, async () => {
      const directory = host.layout.runDirectory(id);
      const killed = [
        ...(await killLeftovers(directory)),
        ...(await killFirecrackerLeftovers(directory)),
      ];
      for (const identity of killed) {
        host.logger.warn({ sandbox: id, pid: identity.pid }, 'ending a VMM without a sandbox');
        await endProcess(identity);
      }
    });
  }
}

/** Removes run directories and guest RAM that no running sandbox owns. */
async function removeStrays(host: HostContext, living: ReadonlySet<string>): Promise<void> {
  const { runRoot, memoryRoot } = host.layout;
  for (const root of [runRoot, memoryRoot]) {
    for (const name of await readdir(root)) {
      const id = name.split('.')[0] ?? name;
      if (!isId('sandbox', id) || living.has(id)) continue;
      await rm(join(root, name), { recursive: true, force: true });
    }
  }
}

async function removeDirectory(host: HostContext, id: string): Promise<void> {
  await rm(host.layout.sandboxDirectory(id), { recursive: true, force: true });
}

async function attempt(
  host: HostContext,
  owner: string,
  action: (host: HostContext, owner: string) => Promise<void>,
): Promise<void> {
  try {
    await action(host, owner);
  } catch (error) {
    host.logger.error({ owner, err: error }, 'could not be taken down, trying at the next start');
  }
}
