import { type RawBuilder, sql, type Transaction } from 'kysely';
import type { Database } from '../database/schema.ts';
import { documentOf } from '../events/document.ts';
import type { DeliverableEvent } from '../events/outbox.ts';
import { CLAIM_MS } from './dispatcher.ts';

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
        next_attempt_at: dueAfterFirst(webhook.id, event.resource),
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

/**
 * When the first pending delivery of the webhook and resource is retried; now if there is none. One
 * that is being sent is not waited for: its time is that of its claim.
 */
function dueAfterFirst(webhookId: string, resource: string): RawBuilder<Date> {
  return sql<Date>`greatest(now(), (
    select case when first.next_attempt_at > now() + ${CLAIM_MS / 1000} * interval '1 second'
      then first.next_attempt_at end
    from webhook_deliveries first
    where first.webhook_id = ${webhookId} and first.resource = ${resource}
      and first.state = 'pending'
    order by first.id limit 1))`;
}

/** A pattern is a type, or a kind of resource and `.*`. */
function wants({ event_types }: { readonly event_types: readonly string[] }, type: string) {
  return event_types.some((pattern) =>
    pattern.endsWith('.*') ? type.startsWith(pattern.slice(0, -1)) : type === pattern,
  );
}
