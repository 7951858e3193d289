import { TorporError } from '@torpor/protocol';
import type { Kysely, Transaction } from 'kysely';
import { SYSTEM } from '../auth/principal.ts';
import type { Database } from '../database/schema.ts';
import { appendEvents } from '../events/outbox.ts';
import { mustBeDestroyed } from '../hosts/report.ts';
import type { HostContents, HostedRows } from '../hosts/service.ts';
import { SandboxRepository } from './repository.ts';

const GIVEN_UP_REASON = 'Its host was deleted.';

/** What hosts have, for their deletion. */
export const hostedRows: HostedRows = { contents, giveUp };

async function contents(db: Kysely<Database>, hostId: string): Promise<HostContents> {
  const sandboxes = await new SandboxRepository(db).listLiving(hostId);
  const snapshots = await onlyOn(db, hostId).where('state', '=', 'ready').orderBy('name').execute();
  return {
    // Those that it has yet to destroy are no loss.
    sandboxes: sandboxes
      .filter((row) => !mustBeDestroyed(row))
      .map(({ id, state }) => ({ id, state }))
      .sort((a, b) => (a.id < b.id ? -1 : 1)),
    snapshots: snapshots.map(({ name }) => name),
  };
}

/**
 * Sandboxes become `stopped`, and snapshots that no other host has no longer exist. Their ids stay
 * recorded: should the machine join again, what it still has of them is removed.
 */
async function giveUp(transaction: Transaction<Database>, hostId: string): Promise<void> {
  const sandboxes = new SandboxRepository(transaction);
  const living = await sandboxes.listLiving(hostId);
  // Who has locked one waits with it for the host, which this transaction has locked.
  const locked = await sandboxes.lockFree(living.map(({ id }) => id));
  for (const { id } of living) {
    const row = locked.get(id);
    if (row?.state === 'stopped') continue;
    const ended_at = row?.ended_at ?? new Date();
    const report = { state: 'stopped', reason: GIVEN_UP_REASON, ended_at } as const;
    if (row !== undefined && (await sandboxes.recordReport(row, report))) continue;
    throw new TorporError('conflict', `An operation is in progress on sandbox ${id}.`, {
      remedy: 'Try again when it has finished.',
    });
  }
  const lost = await onlyOn(transaction, hostId).execute();
  const released = await transaction
    .deleteFrom('template_hosts')
    .where('host_id', '=', hostId)
    .returning('template_id as id')
    .execute();
  await recordGivenUp(transaction, [...living, ...released]);
  if (lost.length === 0) return;
  const ids = lost.map(({ id }) => id);
  await transaction.deleteFrom('templates').where('id', 'in', ids).execute();
  const named = lost.filter(({ state }) => state === 'ready');
  await appendEvents(
    transaction,
    named.map(({ name, team_id: teamId }) => ({
      kind: 'snapshot.delete' as const,
      resource: name,
      teamId,
      actor: SYSTEM,
      status: 'success' as const,
      metadata: { reason: GIVEN_UP_REASON },
    })),
  );
}

/** The templates, in any state, that no other host has. */
function onlyOn(db: Kysely<Database>, hostId: string) {
  return db
    .selectFrom('templates')
    .innerJoin('template_hosts', 'template_id', 'templates.id')
    .select(['templates.id', 'name', 'team_id', 'state'])
    .where('host_id', '=', hostId)
    .where(({ not, exists, selectFrom }) =>
      not(
        exists(
          selectFrom('template_hosts as other')
            .select('other.host_id')
            .whereRef('other.template_id', '=', 'templates.id')
            .where('other.host_id', '<>', hostId),
        ),
      ),
    );
}

async function recordGivenUp(
  transaction: Transaction<Database>,
  resources: readonly { readonly id: string }[],
): Promise<void> {
  if (resources.length === 0) return;
  await transaction
    .insertInto('given_up')
    .values(resources.map(({ id }) => ({ id })))
    .onConflict((conflict) => conflict.doNothing())
    .execute();
}
