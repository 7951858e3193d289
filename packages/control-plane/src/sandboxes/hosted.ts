import { TorporError } from '@torpor/protocol';
import type { Kysely, Transaction } from 'kysely';
import { SYSTEM } from '../auth/principal.ts';
import type { Database } from '../database/schema.ts';
import { appendEvents } from '../events/outbox.ts';
import type { HostContents, HostedRows } from '../hosts/service.ts';
import { SandboxRepository } from './repository.ts';

const GIVEN_UP_REASON = 'Its host was deleted.';

/** What hosts have, for their deletion. */
export const hostedRows: HostedRows = { contents, giveUp };

async function contents(db: Kysely<Database>, hostId: string): Promise<HostContents> {
  const sandboxes = await new SandboxRepository(db).listLiving(hostId);
  const snapshots = await db
    .selectFrom('templates')
    .select('name')
    .where('host_id', '=', hostId)
    .where('state', '=', 'ready')
    .orderBy('name')
    .execute();
  return {
    sandboxIds: sandboxes.map(({ id }) => id).sort(),
    snapshots: snapshots.map(({ name }) => name),
  };
}

/** Sandboxes become `stopped`, and snapshots no longer exist. */
async function giveUp(transaction: Transaction<Database>, hostId: string): Promise<void> {
  const sandboxes = new SandboxRepository(transaction);
  for (const row of await sandboxes.listLiving(hostId)) {
    const report = { state: 'stopped', reason: GIVEN_UP_REASON, ended_at: new Date() } as const;
    if (await sandboxes.recordReport(row, report)) continue;
    throw new TorporError('conflict', `An operation is in progress on sandbox ${row.id}.`, {
      remedy: 'Try again when it has finished.',
    });
  }
  const removed = await transaction
    .deleteFrom('templates')
    .where('host_id', '=', hostId)
    .returning(['name', 'team_id', 'state'])
    .execute();
  const named = removed.filter(({ state }) => state === 'ready');
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
