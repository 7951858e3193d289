import { rm } from 'node:fs/promises';
import { assertTransition } from '@torpor/protocol';
import { buildOf, committedUnrecorded } from '@torpor/vmm';
import type { HostContext } from '../host-context.ts';
import type { SandboxRecord } from '../registry/record.ts';
import { adopt, type RecoveredSandbox, remember } from './recovered-sandbox.ts';

/**
 * Recovers a sandbox that was between running and paused. Its reference shows how far the
 * earlier agent got: it names another build than the machine's parent as soon as a new one is
 * durable.
 */
export async function settle(host: HostContext, record: SandboxRecord): Promise<RecoveredSandbox> {
  const { id, state, memory, machine } = record;
  const referenced = host.builds.references.get('sandbox', id);
  const parent = memory && buildOf(memory.base);
  const committed = referenced === parent ? undefined : referenced;
  const buildId = committed ?? record.buildId;
  if (state === 'pausing' && committed !== undefined) return await paused(host, record, committed);
  if (state === 'resuming' && record.buildId !== undefined) {
    return await paused(host, record, referenced ?? record.buildId);
  }
  if (machine === undefined && buildId !== undefined) return await paused(host, record, buildId);
  // Published, but not yet referenced at the crash, from a sandbox that keeps running.
  await host.builds.discardSharingDisk(host.layout.upperDisk(id));
  const present: SandboxRecord = {
    ...record,
    ...(committed === undefined
      ? {}
      : { memory: { ...memory, base: committedUnrecorded(committed) } }),
    ...(buildId === undefined ? {} : { buildId }),
  };
  const adopted = await adopt(host, present);
  if (adopted.machine === undefined) return adopted;
  assertTransition(id, state, 'running');
  const running: SandboxRecord = { ...present, state: 'running' };
  await remember(host, running);
  return { record: running, machine: adopted.machine };
}

async function paused(
  host: HostContext,
  record: SandboxRecord,
  buildId: string,
): Promise<RecoveredSandbox> {
  assertTransition(record.id, record.state, 'paused');
  const { machine: _machine, slot: _slot, memory: _memory, ...kept } = record;
  // Its machine, if one is left, is released with everything else that no running sandbox owns.
  const settled: SandboxRecord = { ...kept, state: 'paused', buildId };
  await remember(host, settled);
  await rm(host.layout.upperDisk(record.id), { force: true });
  return { record: settled };
}
