import { setTimeout as delay } from 'node:timers/promises';
import { type hostAgent, isTransitional, type SandboxState } from '@torpor/protocol';
import type { Kysely } from 'kysely';
import type { Database, OperationKind, SandboxRow } from '../database/schema.ts';
import type { HostConnection } from '../hosts/connection.ts';
import type { HostRegistry } from '../hosts/registry.ts';
import { reportOf, settledReport } from '../hosts/report.ts';
import type { AbandonedOperation, Recovery, ResourceEvent } from '../operations/runner.ts';
import { stillMoving } from './claim.ts';
import { SandboxRepository } from './repository.ts';

const POLL_MS = 100;

/** The states in which an operation has succeeded. */
const DONE: Partial<Record<OperationKind, readonly SandboxState[]>> = {
  'sandbox.create': ['running'],
  'sandbox.fork': ['running'],
  'sandbox.resume': ['running'],
  'sandbox.pause': ['paused'],
  'sandbox.destroy': ['stopped'],
};

interface Parts {
  readonly db: Kysely<Database>;
  readonly hosts: HostRegistry;
}

/**
 * Settles an operation on a sandbox whose control plane died: the row gets the state from the
 * agent, which has finished the operation, rolled it back, or will refuse it by its fence.
 */
export function sandboxRecovery({ db, hosts }: Parts): Recovery {
  return async ({ resource: id, intent, wait, fence }: AbandonedOperation) => {
    const row = await new SandboxRepository(db).findById(id);
    // In any other state, the control plane died before it had written anything.
    if (row === undefined || !isTransitional(row.state)) return async () => [];
    const info = await settledInfo(hosts.connection(row.host_id), row, { wait, fence });
    const report = settledReport(row, info);
    return async (transaction): Promise<ResourceEvent[]> => {
      const settled = await new SandboxRepository(transaction).recordAsHolder(row, report);
      const done = DONE[intent.kind];
      if (settled === undefined || done === undefined) return [];
      const status = done.includes(report.state) ? 'success' : 'error';
      return [{ resource: id, teamId: row.team_id, status }];
    };
  };
}

/** The agent's report once it is not working on the sandbox. Throws `conflict` rather than wait, unless `wait` is set. */
async function settledInfo(
  host: HostConnection,
  row: SandboxRow,
  { wait, fence }: Pick<AbandonedOperation, 'wait' | 'fence'>,
): Promise<hostAgent.SandboxInfo | undefined> {
  const begun = Date.now();
  for (;;) {
    const info = await host.fetchSandboxInfo(row.id, fence);
    if (info === undefined || !isTransitional(reportOf(info).state)) return info;
    const waitedMs = Date.now() - begun;
    if (!wait || waitedMs > host.guestStartTimeoutMs()) throw stillMoving(row, waitedMs);
    await delay(POLL_MS);
  }
}
