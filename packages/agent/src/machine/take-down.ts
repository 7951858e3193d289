import { rm } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { isProcessAlive, signalProcess } from '@torpor/linux';
import { TorporError } from '@torpor/protocol';
import type { HostContext } from '../host-context.ts';
import type { HostResource } from '../journal/journal.ts';

const ORDER: readonly HostResource['kind'][] = ['process', 'network-slot', 'file', 'directory'];
const KILL_TIMEOUT_MS = 10_000;

/**
 * Releases all resources in the journal of this owner: processes first, then what they used.
 * Idempotent; what cannot be released stays in the journal, and the first such error is thrown
 * after all others have been tried.
 */
export async function takeDownOwned(
  host: Pick<HostContext, 'journal' | 'slots'>,
  owner: string,
): Promise<void> {
  const owned = host.journal
    .entries()
    .filter((entry) => entry.owner === owner)
    .map((entry) => entry.resource)
    .toSorted((a, b) => ORDER.indexOf(a.kind) - ORDER.indexOf(b.kind));
  const errors: unknown[] = [];
  for (const resource of owned) {
    try {
      await takeDown(host, resource, owner);
      await host.journal.forget(resource);
    } catch (error) {
      errors.push(error);
    }
  }
  if (errors.length > 0) throw errors[0];
}

async function takeDown(
  host: Pick<HostContext, 'slots'>,
  resource: HostResource,
  owner: string,
): Promise<void> {
  switch (resource.kind) {
    case 'process':
      return killProcess(resource);
    case 'network-slot':
      return host.slots.destroySlot(resource.index, owner);
    case 'file':
      return rm(resource.path, { force: true });
    case 'directory':
      return rm(resource.path, { recursive: true, force: true });
  }
}

/** Kills this very process, not a later one with its pid, and waits until it has exited. */
export async function killProcess(identity: {
  readonly pid: number;
  readonly startTimeTicks: string;
}): Promise<void> {
  signalProcess(identity, 'SIGKILL');
  const deadline = performance.now() + KILL_TIMEOUT_MS;
  while (isProcessAlive(identity)) {
    if (performance.now() > deadline) {
      throw new TorporError(
        'vmm_failed',
        `Process ${identity.pid} is still running ${KILL_TIMEOUT_MS / 1000} s after SIGKILL.`,
      );
    }
    await sleep(20);
  }
}
