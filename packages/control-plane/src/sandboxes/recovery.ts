import { setTimeout as delay } from 'node:timers/promises';
import { type hostAgent, isTransitional, type SandboxState, TorporError } from '@torpor/protocol';
import type { Kysely } from 'kysely';
import type { Database, OperationKind, SandboxRow } from '../database/schema.ts';
import type { HostConnection } from '../hosts/connection.ts';
import type { HostRegistry } from '../hosts/registry.ts';
import {
  reportOf,
  type SandboxReport,
  SILENT_REASON,
  settledReport,
  silentReport,
} from '../hosts/report.ts';
import type {
  AbandonedOperation,
  Recovery,
  ResourceEvent,
  Settlement,
} from '../operations/runner.ts';
import { stillMoving } from './claim.ts';
import { sandboxEvent } from './parts.ts';
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
 * agent, which has finished the operation, rolled it back, or will refuse it by its fence. If its
 * host has not responded for so long that it is `unreachable`, the operation has failed: its
 * sandbox must not wait for the host. What the host did is found when it is back.
 */
export function sandboxRecovery({ db, hosts }: Parts): Recovery {
  return async ({ resource: id, intent, wait, fence }: AbandonedOperation) => {
    const row = await new SandboxRepository(db).findById(id);
    // In any other state, the control plane died before it had written anything.
    if (row === undefined || !isTransitional(row.state)) return async () => [];
    let report: SandboxReport;
    try {
      const info = await settledInfo(hosts.connection(row.host_id), row, { wait, fence });
      report = settledReport(row, info);
    } catch (reason) {
      if (await isLost(db, row.host_id, reason)) return settleLost(row, intent.kind);
      throw reason;
    }
    return async (transaction): Promise<ResourceEvent[]> => {
      const settled = await new SandboxRepository(transaction).recordAsHolder(row, report);
      const done = DONE[intent.kind];
      // The destroy of one that has ended was recorded when it was requested.
      if (settled === undefined || done === undefined || row.ended_at !== null) return [];
      const status = done.includes(report.state) ? 'success' : 'error';
      return [{ resource: id, teamId: row.team_id, status }];
    };
  };
}

async function isLost(db: Kysely<Database>, hostId: string, reason: unknown): Promise<boolean> {
  const { code } = TorporError.from(reason);
  if (code !== 'host_unavailable' && code !== 'timeout') return false;
  const host = await db
    .selectFrom('hosts')
    .select('state')
    .where('id', '=', hostId)
    .executeTakeFirst();
  return host?.state === 'unreachable';
}

/** Settles an operation on a sandbox of a host that does not respond. */
function settleLost(row: SandboxRow, kind: OperationKind): Settlement {
  return async (transaction) => {
    const sandboxes = new SandboxRepository(transaction);
    if (row.ended_at !== null) return [];
    if (kind === 'sandbox.destroy') {
      await sandboxes.deferDestroy(row);
      return [sandboxEvent(row, 'success', { deferred: 'true' })];
    }
    // A create has failed, and what the host has of it must be destroyed.
    const isNew = row.state === 'creating';
    const report = isNew
      ? ({ state: 'destroying', reason: SILENT_REASON } as const)
      : silentReport(row);
    await sandboxes.recordAsHolder(row, report);
    return DONE[kind] === undefined ? [] : [sandboxEvent(row, 'error')];
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
