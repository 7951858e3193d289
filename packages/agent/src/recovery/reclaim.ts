import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { isId, TorporError } from '@torpor/protocol';
import { killLeftovers } from '@torpor/vmm';
import { dropStaleReferences } from '../builds/stale-references.ts';
import type { HostContext } from '../host-context.ts';
import { killProcess, takeDownOwned } from '../machine/take-down.ts';
import { readRecord, type SandboxRecord } from '../registry/record.ts';
import { adopt, fail, type RecoveredSandbox } from './recovered-sandbox.ts';
import { settle } from './settle.ts';

/*
 * Recovery when an agent starts, before it serves any call. An earlier agent may have been
 * killed at any point:
 *
 * - a sandbox that was running and whose VMM still runs is adopted as it is;
 * - the destruction of one that was being destroyed is finished;
 * - one that was being paused is paused if its build was made, and keeps running if not;
 * - one that was being resumed is paused as before;
 * - one that was being created becomes `error`, since its guest may be half-made;
 * - resources in the journal that no running sandbox owns are released, and so are the contents
 *   of our own directories (run directories, guest RAM).
 *
 * A sandbox whose record cannot be read is not touched, nor is anything that it may own.
 */

const POOL_OWNER = 'pool';

/** Returns the recovered sandboxes. Resources that it cannot release stay in the journal for the next start. */
export async function reclaim(host: HostContext): Promise<RecoveredSandbox[]> {
  const { known, unreadable } = await loadRecords(host);
  const recovered = (await Promise.all(known.map((record) => recover(host, record)))).filter(
    (sandbox) => sandbox !== undefined,
  );
  const running = recovered.filter(({ machine }) => machine !== undefined);
  const living = new Set([...running.map(({ record }) => record.id), ...unreadable]);
  await killOrphans(host, living);
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
      // A directory without a record: the crash was before the sandbox existed.
      if (record === undefined) await removeDirectory(host, id);
      else known.push(record);
    } catch (error) {
      unreadable.push(id);
      host.logger.error(
        { sandbox: id, err: error },
        'Record could not be read, sandbox left alone',
      );
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
      return fail(host, record, 'The host agent exited while the sandbox was being created.');
    case 'pausing':
    case 'resuming':
    case 'snapshotting':
      return settle(host, record);
    case 'paused':
    case 'error':
    case 'unreachable':
    case 'missing':
      return { record: withLastBuild(host, record) };
  }
}

/**
 * Adds the last build of a sandbox that has its own: a crash may have occurred between its
 * reference and its record.
 */
function withLastBuild(host: HostContext, record: SandboxRecord): SandboxRecord {
  const referenced = host.builds.references.get('sandbox', record.id);
  if (record.buildId === undefined || referenced === undefined) return record;
  return { ...record, buildId: referenced };
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
 * Kills the VMMs of run directories that no running sandbox owns: a crash between the start of
 * a VMM and the journal's entry for it leaves one that only its directory identifies.
 */
async function killOrphans(host: HostContext, living: ReadonlySet<string>): Promise<void> {
  for (const id of await readdir(host.layout.runRoot)) {
    if (!isId('sandbox', id) || living.has(id)) continue;
    await attempt(host, id, async () => {
      for (const identity of await killLeftovers(host.layout.runDirectory(id))) {
        host.logger.warn({ sandbox: id, pid: identity.pid }, 'VMM without a sandbox killed');
        await killProcess(identity);
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
    host.logger.error({ owner, err: error }, 'Could not be taken down; the next start will retry');
  }
}
