import { z } from 'zod';
import { pageQuerySchema } from './common.ts';
import { eventPatternSchema } from './events.ts';

export const WEBHOOK_FORMATS = ['json', 'slack', 'discord'] as const;
export const DELIVERY_STATES = ['pending', 'delivered', 'dead'] as const;
const MAX_EVENT_TYPES = 64;

const nameSchema = z
  .string()
  .regex(
    /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/,
    'must be 1 to 64 of [A-Za-z0-9._-] and begin with a letter or digit',
  )
  .meta({ example: 'alerts' });

const eventTypesSchema = z
  .array(eventPatternSchema)
  .min(1)
  .max(MAX_EVENT_TYPES)
  .meta({ example: ['sandbox.*', 'snapshot.create'] });

const formatSchema = z.enum(WEBHOOK_FORMATS).meta({
  description:
    '`json`: the event, signed by the Standard Webhooks specification; `slack` and `discord`: a sentence for a channel.',
});

const urlSchema = z.string().max(2048).meta({
  description: 'It is stored encrypted, and not shown again.',
  example: 'https://hooks.example.com/torpor',
});

export const createWebhookSchema = z
  .strictObject({
    name: nameSchema,
    url: urlSchema,
    format: formatSchema.default('json'),
    event_types: eventTypesSchema,
  })
  .meta({ id: 'CreateWebhook' });

export const updateWebhookSchema = z
  .strictObject({
    name: nameSchema.optional(),
    url: urlSchema.optional(),
    format: formatSchema.optional(),
    event_types: eventTypesSchema.optional(),
    enabled: z.boolean().optional().meta({ description: '`false`: nothing is queued or sent.' }),
  })
  .meta({ id: 'UpdateWebhook' });

export const webhookSchema = z
  .strictObject({
    id: z.string(),
    team_id: z.string(),
    name: z.string(),
    host: z.string().meta({ description: 'The host of its address.' }),
    format: z.enum(WEBHOOK_FORMATS),
    event_types: z.array(z.string()),
    enabled: z.boolean(),
    created_at: z.iso.datetime(),
    updated_at: z.iso.datetime(),
  })
  .meta({ id: 'Webhook' });

export type Webhook = z.infer<typeof webhookSchema>;

export const createdWebhookSchema = webhookSchema
  .extend({
    secret: z.string().meta({ description: 'Key of the signatures, which is shown only here.' }),
  })
  .meta({ id: 'CreatedWebhook' });

export type CreatedWebhook = z.infer<typeof createdWebhookSchema>;

export const webhookListSchema = z.array(webhookSchema);

export const webhookAttemptSchema = z
  .strictObject({
    accepted: z.boolean(),
    status: z.int().optional().meta({ description: 'Status of the response.' }),
    error: z.string().optional(),
  })
  .meta({ id: 'WebhookAttempt' });

export type WebhookAttempt = z.infer<typeof webhookAttemptSchema>;

const webhookDeliverySchema = z
  .strictObject({
    id: z.string(),
    event_id: z.string(),
    event_type: z.string(),
    resource_id: z.string(),
    state: z.enum(DELIVERY_STATES).meta({ description: '`dead`: given up.' }),
    attempts: z.int(),
    next_attempt_at: z.iso.datetime().optional(),
    last_status: z.int().optional(),
    last_error: z.string().optional(),
    created_at: z.iso.datetime(),
    finished_at: z.iso.datetime().optional(),
  })
  .meta({ id: 'WebhookDelivery' });

export type WebhookDelivery = z.infer<typeof webhookDeliverySchema>;

export const webhookDeliveryListSchema = z.array(webhookDeliverySchema);

export const listDeliveriesQuerySchema = pageQuerySchema.extend({
  state: z.enum(DELIVERY_STATES).optional(),
  limit: z.coerce.number().int().min(1).max(1000).default(100),
});

export const redeliveredSchema = z
  .strictObject({ queued: z.int().meta({ description: 'How many are to be sent again.' }) })
  .meta({ id: 'Redelivered' });
