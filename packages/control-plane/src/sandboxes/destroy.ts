import { assertTransition, type SandboxState, TorporError } from '@torpor/protocol';
import type { Actor } from '../auth/principal.ts';
import type { SandboxRow } from '../database/schema.ts';
import type { HostConnection } from '../hosts/connection.ts';
import { mustBeDestroyed } from '../hosts/report.ts';
import type { Operation } from '../operations/runner.ts';
import { claim } from './claim.ts';
import { observe, requireRow, type SandboxParts, sandboxEvent } from './parts.ts';
import { SandboxRepository } from './repository.ts';

const DESTROY_TIMEOUT_MS = 2 * 60_000;

/** `deferred`: its host does not respond, and destroys it when it does again. */
export type Destruction = 'destroyed' | 'deferred';

interface Subject {
  readonly row: SandboxRow;
  /** Its host does not respond. */
  readonly isUnreachable: boolean;
}

/**
 * Destroys a sandbox and everything that it has on its host. Does nothing if it is already
 * stopped. If its host does not respond, it ends for its team, and stays `destroying` until the
 * reconciler (hosts/reconciler.ts) has had the host destroy it.
 */
export function destroyOperation(
  parts: SandboxParts,
  { id, teamId, actor }: { readonly id: string; readonly teamId: string; readonly actor: Actor },
): Operation<Subject, Destruction, Destruction> {
  return {
    kind: 'sandbox.destroy',
    resources: [id],
    teamId,
    actor,
    begin: async (write) => {
      let isUnreachable = false;
      const row = await claim(parts, write, {
        teamId,
        id,
        check: ({ state }) => {
          isUnreachable = state === 'unreachable';
          if (!isEnding(state)) assertTransition(id, state, 'destroying');
        },
        move: async (transaction, row) =>
          isEnding(row.state)
            ? row
            : new SandboxRepository(transaction).transition(id, row.state, 'destroying'),
      });
      return { row, isUnreachable };
    },
    perform: async ({ row, isUnreachable }, fence) => {
      if (row.state === 'stopped') return 'destroyed';
      return isUnreachable ? 'deferred' : destroyIfReachable(parts, row, fence);
    },
    complete: async (transaction, { row }, result) => {
      const sandboxes = new SandboxRepository(transaction);
      if (row.state === 'stopped') return { result, events: [] };
      if (result === 'destroyed') await recordDestroyed(sandboxes, row);
      else if (isRetried(row, actor)) return { result, events: [] };
      else await sandboxes.deferDestroy(row);
      const metadata = result === 'deferred' ? { deferred: 'true' } : undefined;
      // Its destroy was recorded when it was deferred.
      const events = row.ended_at === null ? [sandboxEvent(row, 'success', metadata)] : [];
      return { result, events };
    },
    settle: async ({ row }, _, fence) => {
      const record = await observe(parts, id, fence);
      return async (transaction) => {
        await record(transaction);
        return isRetried(row, actor) ? [] : [sandboxEvent(row, 'error')];
      };
    },
  };
}

/** The reconciler retries what no user asked for now until it succeeds. */
function isRetried(row: SandboxRow, actor: Actor): boolean {
  return mustBeDestroyed(row) && actor.type === 'system';
}

async function destroyIfReachable(
  { hosts }: Pick<SandboxParts, 'hosts'>,
  { id, host_id }: SandboxRow,
  fence: bigint,
): Promise<Destruction> {
  try {
    await destroyOnHost(hosts.connection(host_id), id, fence);
    return 'destroyed';
  } catch (reason) {
    if (TorporError.from(reason).code === 'host_unavailable') return 'deferred';
    throw reason;
  }
}

async function recordDestroyed(
  sandboxes: SandboxRepository,
  { id, ended_at }: SandboxRow,
): Promise<void> {
  const changes = { reason: null, ended_at: ended_at ?? new Date() };
  requireRow(id, await sandboxes.transition(id, 'destroying', 'stopped', changes));
}

function isEnding(state: SandboxState): boolean {
  return state === 'stopped' || state === 'destroying';
}

/** Destroys what a host, which need not be its own, still has of a sandbox that was reported as destroyed. */
export function destroyAgainOperation(
  host: HostConnection,
  row: SandboxRow,
  actor: Actor,
): Operation<SandboxRow, void, void> {
  return {
    kind: 'sandbox.destroy',
    resources: [row.id],
    teamId: row.team_id,
    actor,
    begin: async () => row,
    perform: (_, fence) => destroyOnHost(host, row.id, fence),
    complete: async () => ({ result: undefined, events: [sandboxEvent(row, 'success')] }),
    settle: async () => async () => [sandboxEvent(row, 'error')],
  };
}

/** Also succeeds if the host does not know the sandbox. */
export async function destroyOnHost(
  host: HostConnection,
  id: string,
  fence: bigint,
): Promise<void> {
  try {
    await host.call((client) =>
      client.destroySandbox({ sandboxId: id, fence }, { timeoutMs: DESTROY_TIMEOUT_MS }),
    );
  } catch (reason) {
    if (TorporError.from(reason).code !== 'not_found') throw reason;
  }
}
