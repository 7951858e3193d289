/**
 * The outbox: what operations did, written in the same transaction. So an event exists if
 * and only if its change does, whenever a process dies. Everything that reports changes (the
 * audit log, webhooks, streams, usage) is fed from here.
 */
import type { Kysely, Selectable } from 'kysely';
import type { Actor } from '../auth/principal.ts';
import { isOlder, removeRows } from '../database/remove-rows.ts';
import type { Database, EventKind, OperationStatus, OutboxTable } from '../database/schema.ts';

/** What an operation did to one resource. */
export interface OutboxEvent {
  readonly kind: EventKind;
  /** The id of what it is about, or the name of the snapshot. */
  readonly resource: string;
  readonly teamId: string;
  readonly actor: Actor;
  readonly status: OperationStatus;
  /** Facts that help a reader later; never values of environment variables or keys. */
  readonly metadata?: Readonly<Record<string, string>> | undefined;
}

/** One that is being delivered, or was. */
export type DeliverableEvent = Omit<Selectable<OutboxTable>, 'position'> & {
  /** Its place in the stream: a decimal number. */
  readonly position: string;
};

/** Appends events in the transaction of the change that they describe. */
export async function appendEvents(
  transaction: Kysely<Database>,
  events: readonly OutboxEvent[],
): Promise<void> {
  if (events.length === 0) return;
  await transaction
    .insertInto('outbox')
    .values(
      events.map(({ kind, resource, teamId, actor, status, metadata = {} }) => ({
        kind,
        resource,
        team_id: teamId,
        actor_type: actor.type,
        actor_id: actor.id,
        actor_name: actor.name,
        status,
        metadata: JSON.stringify(metadata),
        delivered_at: null,
      })),
    )
    .execute();
}

/** Removes events that were delivered more than `keepMs` ago; returns how many. */
export function removeDelivered(db: Kysely<Database>, keepMs: number): Promise<number> {
  return removeRows(db, 'outbox', isOlder('delivered_at', keepMs));
}
