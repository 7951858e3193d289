import { assertTransition, TorporError } from '@torpor/protocol';
import type { Actor } from '../auth/principal.ts';
import type { SandboxRow } from '../database/schema.ts';
import type { HostConnection } from '../hosts/connection.ts';
import { hasFailedToStart } from '../hosts/report.ts';
import type { Operation } from '../operations/runner.ts';
import { claim } from './claim.ts';
import { observe, requireRow, type SandboxParts, sandboxEvent } from './parts.ts';
import { SandboxRepository } from './repository.ts';

const DESTROY_TIMEOUT_MS = 2 * 60_000;

/** Destroys a sandbox and everything that it has on its host. Does nothing if it is already stopped. */
export function destroyOperation(
  parts: SandboxParts,
  { id, teamId, actor }: { readonly id: string; readonly teamId: string; readonly actor: Actor },
): Operation<SandboxRow, void, void> {
  const { hosts } = parts;
  return {
    kind: 'sandbox.destroy',
    resources: [id],
    teamId,
    actor,
    begin: (write) =>
      claim(parts, write, {
        teamId,
        id,
        check: (row) => {
          if (row.state !== 'stopped' && row.state !== 'destroying') {
            assertTransition(id, row.state, 'destroying');
          }
        },
        move: async (transaction, row) =>
          row.state === 'stopped' || row.state === 'destroying'
            ? row
            : new SandboxRepository(transaction).transition(id, row.state, 'destroying'),
      }),
    perform: async (row, fence) => {
      if (row.state !== 'stopped') await destroyOnHost(hosts.connection(row.host_id), id, fence);
    },
    complete: async (transaction, row) => {
      if (row.state === 'stopped') return { result: undefined, events: [] };
      const stopped = await new SandboxRepository(transaction).transition(
        id,
        'destroying',
        'stopped',
        { reason: null, ended_at: new Date() },
      );
      requireRow(id, stopped);
      return { result: undefined, events: [sandboxEvent(row, 'success')] };
    },
    settle: async (row, _, fence) => {
      const record = await observe(parts, id, fence);
      return async (transaction) => {
        await record(transaction);
        // Cleaning up after a failed create is retried until it succeeds; no user asked for it.
        return hasFailedToStart(row) && actor.type === 'system' ? [] : [sandboxEvent(row, 'error')];
      };
    },
  };
}

/** Destroys what the host still has of a sandbox that was reported as destroyed. */
export function destroyAgainOperation(
  { hosts }: Pick<SandboxParts, 'hosts'>,
  row: SandboxRow,
  actor: Actor,
): Operation<SandboxRow, void, void> {
  return {
    kind: 'sandbox.destroy',
    resources: [row.id],
    teamId: row.team_id,
    actor,
    begin: async () => row,
    perform: (_, fence) => destroyOnHost(hosts.connection(row.host_id), row.id, fence),
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
