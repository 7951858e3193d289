import { z } from 'zod';
import { EVENT_TYPES, isEventPattern } from '../event-types.ts';
import { actorTypeSchema } from './audit.ts';

/** Types of events: one, or all of a kind of resource. */
export const eventPatternSchema = z
  .string()
  .refine(
    isEventPattern,
    'must be a type of event, such as `sandbox.create`, or a kind of resource and `.*`',
  )
  .meta({
    description:
      'A type of event, or a kind of resource and `.*`. ' +
      Object.entries(EVENT_TYPES)
        .map(([type, meaning]) => `\`${type}\`: ${meaning}`)
        .join('; '),
    example: 'sandbox.*',
  });

export const eventSchema = z
  .strictObject({
    id: z.string().meta({ description: 'Its place among the events: a number that only grows.' }),
    type: z.string().meta({
      description: 'What was done: kind of the resource and action.',
      example: 'sandbox.pause',
    }),
    status: z.enum(['success', 'error']),
    team_id: z.string(),
    resource: z.strictObject({ type: z.string(), id: z.string() }),
    actor: z.strictObject({
      type: actorTypeSchema,
      id: z.string().optional(),
      name: z.string().optional(),
    }),
    metadata: z.record(z.string(), z.string()),
    created_at: z.iso.datetime(),
  })
  .meta({ id: 'Event' });

export type Event = z.infer<typeof eventSchema>;

/** Sent instead of events that a reader asked for too late. */
export const eventGapSchema = z.strictObject({
  oldest: z.string().meta({ description: 'Id of the oldest event that is kept, or of the next.' }),
});

/** Decimal, as in PostgreSQL's bigint. */
export const eventIdSchema = z.string().regex(/^\d{1,18}$/, 'must be the id of an event');

export const followEventsQuerySchema = z.strictObject({
  after: eventIdSchema.optional().meta({
    description:
      'The last event that the reader has, or 0 to begin with the oldest that is kept; the header `Last-Event-ID` outweighs it. If omitted, only new events are sent.',
  }),
  type: eventPatternSchema.optional(),
  resource_id: z.string().max(128).optional(),
  follow: z.enum(['true', 'false']).default('true').meta({
    description: '`false`: the response is complete when there are no more events.',
  }),
});

export type FollowEventsQuery = z.infer<typeof followEventsQuerySchema>;
