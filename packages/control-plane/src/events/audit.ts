import { newId } from '@torpor/protocol';
import type { Kysely, Transaction } from 'kysely';
import type { Principal } from '../auth/principal.ts';
import type { Database } from '../database/schema.ts';
import type { DeliverableEvent } from './outbox.ts';
import { scopeOf } from './scope.ts';

/**
 * Who did what to which resource, and whether it worked: one entry per event. The state to
 * which an operation led is no entry of its own.
 * Recording an event twice makes one entry.
 */
export async function recordInAuditLog(
  transaction: Transaction<Database>,
  events: readonly DeliverableEvent[],
): Promise<void> {
  const entries = events.filter(({ kind }) => kind !== 'sandbox.state');
  if (entries.length === 0) return;
  await transaction
    .insertInto('audit_logs')
    .values(
      entries.map((event) => {
        const [resourceType = '', action = ''] = event.kind.split('.');
        return {
          id: newId('audit'),
          team_id: event.team_id,
          actor_type: event.actor_type,
          actor_id: event.actor_id,
          actor_name: event.actor_name,
          resource_type: resourceType,
          resource_id: event.resource,
          action,
          scope: scopeOf(event.kind),
          status: event.status,
          metadata: JSON.stringify(event.metadata),
          created_at: event.created_at,
          outbox_id: event.id,
        };
      }),
    )
    .onConflict((conflict) => conflict.column('outbox_id').doNothing())
    .execute();
}

/** An entry about something that is no event, because it changes nothing that is stored. */
export interface DirectAuditEntry {
  readonly resourceType: string;
  readonly resourceId: string;
  readonly action: string;
  readonly metadata: Readonly<Record<string, string>>;
}

export async function insertAuditEntry(
  db: Kysely<Database>,
  { teamId, actor }: Principal,
  { resourceType, resourceId, action, metadata }: DirectAuditEntry,
): Promise<void> {
  await db
    .insertInto('audit_logs')
    .values({
      id: newId('audit'),
      team_id: teamId,
      actor_type: actor.type,
      actor_id: actor.id,
      actor_name: actor.name,
      resource_type: resourceType,
      resource_id: resourceId,
      action,
      scope: 'team',
      status: 'success',
      metadata: JSON.stringify(metadata),
      outbox_id: null,
    })
    .execute();
}
