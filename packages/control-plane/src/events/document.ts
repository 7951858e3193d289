import type { EventDocument } from '../database/schema.ts';
import type { DeliverableEvent } from './outbox.ts';

/** An event as readers outside get it: of the stream, and of webhooks. */
export function documentOf(event: DeliverableEvent): EventDocument {
  const { position, kind, status, team_id, actor_type, actor_id, actor_name, metadata } = event;
  const [resourceType = ''] = kind.split('.');
  return {
    id: position,
    type: kind,
    status,
    team_id,
    resource: { type: resourceType, id: event.resource },
    actor: {
      type: actor_type,
      ...(actor_id === null ? {} : { id: actor_id }),
      ...(actor_name === null ? {} : { name: actor_name }),
    },
    metadata,
    created_at: event.created_at.toISOString(),
  };
}
