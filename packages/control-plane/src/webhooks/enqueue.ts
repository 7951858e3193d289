import type { Transaction } from 'kysely';
import type { Database } from '../database/schema.ts';
import { documentOf } from '../events/document.ts';
import type { DeliverableEvent } from '../events/outbox.ts';

/** Consumes events: notes for each webhook that wants one that it is to be sent. */
export async function enqueueDeliveries(
  transaction: Transaction<Database>,
  events: readonly DeliverableEvent[],
): Promise<void> {
  const teams = [...new Set(events.map(({ team_id }) => team_id))];
  const webhooks = await transaction
    .selectFrom('webhooks')
    .select(['id', 'team_id', 'event_types'])
    .where('team_id', 'in', teams)
    .where('enabled', '=', true)
    .execute();
  const deliveries = events.flatMap((event) =>
    webhooks
      .filter((webhook) => webhook.team_id === event.team_id && wants(webhook, event.kind))
      .map((webhook) => ({
        webhook_id: webhook.id,
        event_id: event.position,
        resource: event.resource,
        event: JSON.stringify(documentOf(event)),
        state: 'pending' as const,
        last_status: null,
        last_error: null,
        finished_at: null,
      })),
  );
  if (deliveries.length === 0) return;
  await transaction
    .insertInto('webhook_deliveries')
    .values(deliveries)
    .onConflict((conflict) => conflict.columns(['webhook_id', 'event_id']).doNothing())
    .execute();
}

/** A pattern is a type, or a kind of resource and `.*`. */
function wants({ event_types }: { readonly event_types: readonly string[] }, type: string) {
  return event_types.some((pattern) =>
    pattern.endsWith('.*') ? type.startsWith(pattern.slice(0, -1)) : type === pattern,
  );
}
