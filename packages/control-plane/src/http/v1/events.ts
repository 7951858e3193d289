import { rest, TorporError } from '@torpor/protocol';
import type { Logger } from 'pino';
import { z } from 'zod';
import { documentOf } from '../../events/document.ts';
import type { EventFeed, FeedItem } from '../../events/feed.ts';
import { readsAdminScope } from '../../events/scope.ts';
import { accessSignal } from '../access-signal.ts';
import { type Api, addEndpoint, defineEndpoint } from '../endpoint.ts';
import { streamedResponse } from '../streamed-response.ts';

const FOLLOW = defineEndpoint({
  method: 'get',
  path: '/v1/events',
  operationId: 'followEvents',
  access: 'events.read',
  summary: 'Follow the events of the team, as server-sent events',
  description:
    'The data of each message is an `Event`, its id the `id`. A reader that was disconnected continues with ' +
    '`Last-Event-ID`, or `after`. Events are kept for a week; a message `gap` says that older ones were asked for.',
  tag: 'Events',
  query: rest.followEventsQuerySchema,
  responses: {
    200: { description: 'The events.', content: { 'text/event-stream': z.string() } },
  },
});

export function addEventRoutes(api: Api, events: EventFeed, logger: Logger): void {
  addEndpoint(api, FOLLOW, async (c, { query }) => {
    const principal = c.get('principal');
    const adminScope = readsAdminScope(principal);
    const items = await events.follow({
      teamId: principal.teamId,
      adminScope,
      type: query.type,
      resource: query.resource_id,
      after: positionOf(c.req.header('last-event-id') ?? query.after),
      follow: query.follow === 'true',
      signal: accessSignal(c, ...(adminScope ? (['audit.admin'] as const) : [])),
    });
    return streamedResponse(c, encoded(items), logger, 'text/event-stream');
  });
}

function positionOf(id: string | undefined): bigint | undefined {
  if (id === undefined) return undefined;
  const parsed = rest.eventIdSchema.safeParse(id);
  if (parsed.success) return BigInt(parsed.data);
  throw new TorporError('invalid_request', 'Last-Event-ID is not the id of an event.');
}

/** The stream as bytes. */
async function* encoded(items: AsyncIterable<FeedItem>): AsyncGenerator<Uint8Array, void> {
  const encoder = new TextEncoder();
  for await (const item of items) yield encoder.encode(message(item));
}

/** A message of the HTML standard, section "Server-sent events". */
function message(item: FeedItem): string {
  // An id without data: the reader takes note of it, and gets no event.
  if ('position' in item) return `id: ${item.position}\n\n`;
  if ('gap' in item) {
    const gap: z.infer<typeof rest.eventGapSchema> = { oldest: String(item.gap.oldest) };
    return `event: gap\ndata: ${JSON.stringify(gap)}\n\n`;
  }
  const event: rest.Event = documentOf(item.event);
  return `id: ${event.id}\nevent: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`;
}
