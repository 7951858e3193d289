import { canTransition, type hostAgent, isErrorCode, newId, TorporError } from '@torpor/protocol';
import type { Transaction } from 'kysely';
import type { Principal } from '../auth/principal.ts';
import type { Database, NewSandboxRow, SandboxRow } from '../database/schema.ts';
import { publicMessage } from '../errors/public-error.ts';
import { noRoom, type Placement } from '../hosts/placement.ts';
import { hasFailedToStart, neverReachedHost, reportOf } from '../hosts/report.ts';
import { type PhaseTiming, phaseTimings } from '../hosts/timings.ts';
import type { CreateRecord, Made } from '../idempotency/keys.ts';
import type { Completion, LockedWrite, Operation, ResourceEvent } from '../operations/runner.ts';
import type { Quotas } from '../teams/quotas.ts';
import { storableText } from '../validation/text.ts';
import { notInState } from './access.ts';
import { claim } from './claim.ts';
import { discard } from './discard.ts';
import { newSandboxRow } from './new-row.ts';
import {
  newSandboxDemand,
  requireRow,
  type SandboxParts,
  sandboxEvent,
  shapeOfRow,
} from './parts.ts';
import { SandboxRepository } from './repository.ts';
import { notCreated, settledCreate } from './settled-create.ts';

export interface ForkRequest {
  readonly count: number;
  /** Idle timeout of the copies; the source's if omitted. */
  readonly timeoutSec?: number | undefined;
}

/** One for each requested copy: its row, or why there is none. */
export type ForkedChild =
  | { readonly row: SandboxRow; readonly error?: never }
  | { readonly row?: never; readonly error: TorporError };

export interface Fork {
  readonly children: readonly ForkedChild[];
  readonly timings: readonly PhaseTiming[];
}

/** The rows of the copies, all inserted in one transaction, and why there are no more of them. */
interface Reservation {
  readonly source: SandboxRow;
  readonly rows: readonly SandboxRow[];
  readonly refused: readonly TorporError[];
  readonly timeoutSec: number;
}

type AgentResponse = Pick<hostAgent.ForkSandboxResponse, 'children' | 'timings'>;

/**
 * Copies of a running or paused sandbox, which does not change. Resolves with a result
 * per copy: one that fails does not affect the others. Throws `not_found` and
 * `invalid_state`; no copy exists then.
 */
export async function fork(
  parts: SandboxParts,
  principal: Principal,
  id: string,
  request: ForkRequest,
  record: CreateRecord,
): Promise<Fork> {
  let reservation: Reservation | undefined;
  const operation = forkOperation(parts, principal, { ...request, id, record }, (made) => {
    reservation = made;
  });
  try {
    return await parts.runner.run(operation);
  } catch (reason) {
    if (reservation === undefined) throw reason;
    const { rows, refused } = reservation;
    const error = TorporError.from(reason);
    const failed = rows.map((row) => childError(row, error));
    return { children: [...failed, ...refused].map((one) => ({ error: one })), timings: [] };
  }
}

function forkOperation(
  parts: SandboxParts,
  principal: Principal,
  { id, record, ...request }: ForkRequest & { readonly id: string; readonly record: CreateRecord },
  onReserved: (reservation: Reservation) => void,
): Operation<Reservation, AgentResponse, Fork> {
  const childIds = Array.from({ length: request.count }, () => newId('sandbox'));
  const intent = {
    kind: 'sandbox.fork',
    teamId: principal.teamId,
    actor: principal.actor,
  } as const;
  return {
    ...intent,
    // The source is not locked: the agent serialises operations on it.
    resources: childIds,
    begin: async (write) => {
      const source = await parts.runner.withLock(id, intent, ({ write: writeSource }) =>
        requireForkable(parts, principal, id, writeSource),
      );
      const timeoutSec = request.timeoutSec ?? source.timeout_sec;
      const reservation = await write(async (transaction) => {
        const reserved = await reserve(parts, transaction, { source, childIds, timeoutSec });
        await record.record(transaction, madeBy(reserved));
        return reserved;
      });
      onReserved(reservation);
      return reservation;
    },
    perform: async ({ source, rows, timeoutSec }, fence) => {
      if (rows.length === 0) return { children: [], timings: [] };
      const host = parts.hosts.connection(source.host_id);
      return host.call((client) =>
        client.forkSandbox(
          { sandboxId: id, childIds: rows.map((row) => row.id), timeoutSec, fence },
          { timeoutMs: host.guestStartTimeoutMs(rows.length) },
        ),
      );
    },
    complete: recordChildren,
    settle: async ({ source, rows }, error, fence) => {
      const host = parts.hosts.connection(source.host_id);
      const { logger } = parts;
      const records = await Promise.all(
        rows.map((row) => discard({ host, logger, fence }, row.id, error)),
      );
      return async (transaction) => {
        for (const record of records) await record(transaction);
        return rows.map((row) => sandboxEvent(row, 'error', { source: id }));
      };
    },
  };
}

function madeBy({ rows, refused }: Reservation): Made {
  return {
    ids: rows.map(({ id }) => id),
    refused: refused.map((error) => ({ code: error.code, message: publicMessage(error) })),
  };
}

/** What came of a fork whose control plane did not tell: waits until it is settled. Undefined if the host never had a copy. */
export async function forked(
  parts: SandboxParts,
  principal: Principal,
  { ids, refused = [] }: Made,
): Promise<Fork | undefined> {
  const rows: SandboxRow[] = [];
  for (const id of ids) rows.push(await settledCreate(parts, principal, id, 'sandbox.fork'));
  if (rows.length > 0 && rows.every(neverReachedHost)) return undefined;
  const children: ForkedChild[] = rows.map((row) =>
    hasFailedToStart(row) ? { error: notCreated(row) } : { row },
  );
  for (const { code, message } of refused) {
    const error = new TorporError(isErrorCode(code) ? code : 'internal_error', message);
    children.push({ error });
  }
  return { children, timings: [] };
}

function requireForkable(
  parts: SandboxParts,
  principal: Principal,
  id: string,
  write: LockedWrite,
): Promise<SandboxRow> {
  return claim(parts, write, {
    teamId: principal.teamId,
    id,
    check: (row) => {
      if (!canTransition(row.state, 'snapshotting')) throw notInState(row, 'running or paused');
    },
    move: async (_, row) => row,
  });
}

/**
 * Inserts as many rows as the team's quotas allow and the host has room for. Copies are made where
 * the source is: throws `no_hosts_available` if that host is being drained.
 */
async function reserve(
  { quotas, placement }: { readonly quotas: Quotas; readonly placement: Placement },
  transaction: Transaction<Database>,
  wanted: {
    readonly source: SandboxRow;
    readonly childIds: readonly string[];
    readonly timeoutSec: number;
  },
): Promise<Reservation> {
  const { source, childIds, timeoutSec } = wanted;
  const shape = shapeOfRow(source);
  const quota = await quotas.lock(transaction, source.team_id, newSandboxDemand(shape));
  const allowed = quota.times(childIds.length);
  const room = await placement.lockRoom(transaction, source.host_id);
  if (room.isDraining) throw drained(source);
  const { freeMb, freeVcpus } = room;
  const fits = Math.min(Math.floor(freeMb / shape.memoryMb), Math.floor(freeVcpus / shape.vcpus));
  const count = Math.max(Math.min(fits, allowed), 0);
  const placed = childIds.slice(0, count).map((id) => childRow(source, id, timeoutSec));
  const rows = count === 0 ? [] : await new SandboxRepository(transaction).insert(placed);
  const left = {
    ...room,
    freeMb: freeMb - count * shape.memoryMb,
    freeVcpus: freeVcpus - count * shape.vcpus,
  };
  const refused = childIds
    .slice(count)
    .map(() => (count === allowed ? quota.refusal(allowed) : noRoom(shape, left)));
  return { source, rows, refused, timeoutSec };
}

function drained({ id, host_id: hostId }: SandboxRow): TorporError {
  return new TorporError(
    'no_hosts_available',
    `Copies of the sandbox ${id} would be on its host ${hostId}, which takes no new sandboxes: it is being drained.`,
    { remedy: 'Stop draining that host.' },
  );
}

async function recordChildren(
  transaction: Transaction<Database>,
  { source, rows, refused }: Reservation,
  response: AgentResponse,
): Promise<Completion<Fork>> {
  const sandboxes = new SandboxRepository(transaction);
  const results = new Map(response.children.map((child) => [child.sandboxId, child]));
  const children: ForkedChild[] = [];
  const events: ResourceEvent[] = [];
  for (const row of rows) {
    const outcome = childOutcome(results.get(row.id));
    if (outcome instanceof TorporError) {
      const reason = storableText(publicMessage(outcome));
      await sandboxes.transition(row.id, 'creating', 'error', { reason });
      children.push({ error: childError(row, outcome) });
      events.push(sandboxEvent(row, 'error', { source: source.id, code: outcome.code }));
      continue;
    }
    const now = new Date();
    const { state, ...facts } = reportOf(outcome);
    const made = await sandboxes.transition(row.id, 'creating', state, {
      ...facts,
      versions: JSON.stringify(outcome.metadata),
      started_at: now,
      last_active_at: now,
    });
    children.push({ row: requireRow(row.id, made) });
    events.push(sandboxEvent(row, 'success', { source: source.id }));
  }
  children.push(...refused.map((error) => ({ error })));
  return { result: { children, timings: phaseTimings(response.timings) }, events };
}

/** The copy that the agent created, or its error. */
function childOutcome(
  result: hostAgent.ForkResult | undefined,
): hostAgent.SandboxInfo | TorporError {
  if (result?.outcome.case === 'sandbox') return result.outcome.value;
  if (result?.outcome.case !== 'failure') {
    return new TorporError('internal_error', 'The host agent returned no result for this sandbox.');
  }
  const { message, detail } = result.outcome.value;
  const code = detail !== undefined && isErrorCode(detail.code) ? detail.code : 'internal_error';
  return new TorporError(code, message, { remedy: detail?.remedy ?? '' });
}

function childError(row: SandboxRow, error: TorporError): TorporError {
  return new TorporError(
    error.code,
    `Sandbox ${row.id} could not be created: ${publicMessage(error)}`,
    { remedy: error.remedy, cause: error },
  );
}

function childRow(source: SandboxRow, id: string, timeoutSec: number): NewSandboxRow {
  return newSandboxRow({
    id,
    team_id: source.team_id,
    host_id: source.host_id,
    template: source.template,
    vcpus: source.vcpus,
    memory_mb: source.memory_mb,
    disk_size_mb: source.disk_size_mb,
    timeout_sec: timeoutSec,
    auto_pause: source.auto_pause,
    allow_internet: source.allow_internet,
    default_user: source.default_user,
    default_env: source.default_env,
    metadata: source.metadata,
  });
}
