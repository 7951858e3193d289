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

/** The states in which an operation has done what it was asked for. */
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
 * What an operation left of a sandbox when its control plane died: the row gets what the
 * agent says, which has finished the operation, rolled it back, or never heard of it.
 */
export function sandboxRecovery({ db, hosts }: Parts): Recovery {
  return async ({ resource: id, intent, wait }: AbandonedOperation) => {
    const row = await new SandboxRepository(db).findById(id);
    // In another state it died before it had written anything.
    if (row === undefined || !isTransitional(row.state)) return async () => [];
    const info = await settledInfo(hosts.connection(row.host_id), row, wait);
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

/** What the agent says once it is not at work on the sandbox. Throws `conflict` instead of waiting, if not to `wait`. */
export async function settledInfo(
  host: HostConnection,
  row: SandboxRow,
  wait: boolean,
): Promise<hostAgent.SandboxInfo | undefined> {
  const begun = Date.now();
  for (;;) {
    const info = await host.fetchSandboxInfo(row.id);
    if (info === undefined || !isTransitional(reportOf(info).state)) return info;
    const waitedMs = Date.now() - begun;
    if (!wait || waitedMs > host.guestStartTimeoutMs()) throw stillMoving(row, waitedMs);
    await delay(POLL_MS);
  }
}
