import { SANDBOX_DEFAULTS, TorporError } from '@torpor/protocol';
import type { Kysely, Transaction } from 'kysely';
import type { Logger } from 'pino';
import type { Principal } from '../auth/principal.ts';
import type { Database, SandboxRow, TemplateRow } from '../database/schema.ts';
import type { Placement } from '../hosts/placement.ts';
import type { HostRegistry } from '../hosts/registry.ts';
import { reportOf, type SandboxReport, settledReport, silentReport } from '../hosts/report.ts';
import type { PhaseTiming } from '../hosts/timings.ts';
import type { OperationRunner, ResourceEvent } from '../operations/runner.ts';
import type { Demand, Quotas } from '../teams/quotas.ts';
import type { Shape } from './limits.ts';
import { SandboxRepository } from './repository.ts';

/** Finds the snapshots that sandboxes can be created from: those of the team and of the platform. */
export interface SnapshotLookup {
  findUsable(teamId: string, name: string): Promise<TemplateRow | undefined>;
}

/** The dependencies of the operations on sandboxes. */
export interface SandboxParts {
  readonly db: Kysely<Database>;
  readonly sandboxes: SandboxRepository;
  readonly hosts: HostRegistry;
  readonly placement: Placement;
  readonly quotas: Quotas;
  readonly runner: OperationRunner;
  readonly logger: Logger;
}

/** A sandbox after an operation, and how long the operation's phases took. */
export interface OperatedSandbox {
  readonly row: SandboxRow;
  readonly timings: readonly PhaseTiming[];
}

/** What a sandbox takes of its team's quotas while it runs. */
export function runningDemand({ vcpus, memoryMb }: Omit<Shape, 'diskSizeMb'>): Demand {
  return { running_sandboxes: 1, vcpus, memory_mb: memoryMb };
}

/** What a new sandbox takes of them. */
export function newSandboxDemand(shape: Shape): Demand {
  return { ...runningDemand(shape), disk_mb: shape.diskSizeMb ?? SANDBOX_DEFAULTS.diskMb };
}

export function shapeOfRow(row: SandboxRow): Shape {
  return { vcpus: row.vcpus, memoryMb: row.memory_mb, diskSizeMb: row.disk_size_mb };
}

/** The fields of an operation that are the same for all on one sandbox. */
export function onSandbox(principal: Principal, id: string) {
  return { resources: [id], teamId: principal.teamId, actor: principal.actor };
}

export function sandboxEvent(
  row: SandboxRow,
  status: ResourceEvent['status'],
  metadata?: Readonly<Record<string, string>>,
): ResourceEvent {
  return { resource: row.id, teamId: row.team_id, status, metadata };
}

/** The row after a write that must have changed it. Throws `conflict` if it did not. */
export function requireRow(id: string, row: SandboxRow | undefined): SandboxRow {
  if (row !== undefined) return row;
  throw new TorporError('conflict', `Sandbox ${id} was changed by another operation.`);
}

/**
 * After a failed operation: asks the agent for the sandbox's state, which the returned function
 * writes. If the host does not respond, it is `unreachable`.
 */
export async function observe(
  { db, hosts, logger }: Pick<SandboxParts, 'db' | 'hosts' | 'logger'>,
  id: string,
  fence: bigint,
): Promise<(transaction: Transaction<Database>) => Promise<void>> {
  const row = requireRow(id, await new SandboxRepository(db).findById(id));
  let report: SandboxReport;
  try {
    const info = await hosts.connection(row.host_id).fetchSandboxInfo(id, fence);
    report = settledReport(row, info);
  } catch (reason) {
    logger.warn(
      { sandbox: id, err: TorporError.from(reason) },
      "Could not refresh the sandbox's state; the reconciler will retry",
    );
    report = silentReport(row);
  }
  return async (transaction) => {
    await new SandboxRepository(transaction).recordAsHolder(row, report);
  };
}

/** The sandbox in the agent's response to an operation. Throws `internal_error`. */
export function requireReport({
  sandbox,
}: {
  sandbox?: Parameters<typeof reportOf>[0] | undefined;
}) {
  if (sandbox !== undefined) return reportOf(sandbox);
  throw new TorporError('internal_error', 'The host agent returned no sandbox.');
}
