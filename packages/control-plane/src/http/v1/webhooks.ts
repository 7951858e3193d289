import { rest } from '@torpor/protocol';
import { z } from 'zod';
import type { IdempotencyKeys } from '../../idempotency/keys.ts';
import type { Delivery, Webhook, WebhookService } from '../../webhooks/service.ts';
import { addCreateEndpoint } from '../create-endpoint.ts';
import { type Api, addEndpoint, defineEndpoint } from '../endpoint.ts';
import { readPage } from './page-token.ts';

const TAG = 'Webhooks';
const WEBHOOK = { 'application/json': rest.webhookSchema };
const params = z.object({ id: z.string() });
const BY_NAME = { list: 'webhooks', schema: z.string() };
const DELIVERY_IDS = { list: 'deliveries', schema: z.string().regex(/^\d{1,18}$/) };

const CREATE = defineEndpoint({
  method: 'post',
  path: '/v1/webhooks',
  operationId: 'createWebhook',
  access: 'webhooks.write',
  summary: 'Create a webhook, to which events of the team are sent',
  description:
    'An event is sent until the receiver returns a status 2xx: at least once, and those of one resource in their order. ' +
    'It is given up after about a day.',
  tag: TAG,
  body: rest.createWebhookSchema,
  responses: {
    201: {
      description: 'The webhook is created.',
      content: { 'application/json': rest.createdWebhookSchema },
    },
  },
});

const LIST = defineEndpoint({
  method: 'get',
  path: '/v1/webhooks',
  operationId: 'listWebhooks',
  access: 'webhooks.read',
  summary: 'List the webhooks of the team, by name',
  tag: TAG,
  query: rest.pageQuerySchema,
  responses: {
    200: { description: 'The webhooks.', content: { 'application/json': rest.webhookListSchema } },
  },
});

const GET = defineEndpoint({
  method: 'get',
  path: '/v1/webhooks/{id}',
  operationId: 'getWebhook',
  access: 'webhooks.read',
  summary: 'Get a webhook',
  tag: TAG,
  params,
  responses: { 200: { description: 'The webhook.', content: WEBHOOK } },
});

const UPDATE = defineEndpoint({
  method: 'patch',
  path: '/v1/webhooks/{id}',
  operationId: 'updateWebhook',
  access: 'webhooks.write',
  summary: 'Change a webhook',
  tag: TAG,
  params,
  body: rest.updateWebhookSchema,
  responses: { 200: { description: 'The webhook as it is now.', content: WEBHOOK } },
});

const ROTATE_SECRET = defineEndpoint({
  method: 'post',
  path: '/v1/webhooks/{id}/rotate-secret',
  operationId: 'rotateWebhookSecret',
  access: 'webhooks.write',
  summary: 'Replace the secret of the signatures',
  description: 'For a day each message has a signature with the previous secret too.',
  tag: TAG,
  params,
  responses: {
    200: {
      description: 'The webhook, with its new secret.',
      content: { 'application/json': rest.createdWebhookSchema },
    },
  },
});

const DELETE = defineEndpoint({
  method: 'delete',
  path: '/v1/webhooks/{id}',
  operationId: 'deleteWebhook',
  access: 'webhooks.write',
  summary: 'Delete a webhook, and what is queued for it',
  tag: TAG,
  params,
  responses: { 204: { description: 'The webhook is deleted.' } },
});

const TEST = defineEndpoint({
  method: 'post',
  path: '/v1/webhooks/{id}/test',
  operationId: 'testWebhook',
  access: 'webhooks.write',
  summary: 'Send an event `webhook.test` at once, and report what came of it',
  tag: TAG,
  params,
  responses: {
    200: {
      description: 'Whether the receiver accepted it.',
      content: { 'application/json': rest.webhookAttemptSchema },
    },
  },
});

const DELIVERIES = defineEndpoint({
  method: 'get',
  path: '/v1/webhooks/{id}/deliveries',
  operationId: 'listWebhookDeliveries',
  access: 'webhooks.read',
  summary: 'List what was and is to be sent to a webhook, newest first',
  description: 'What is finished stays listed for a week.',
  tag: TAG,
  params,
  query: rest.listDeliveriesQuerySchema,
  responses: {
    200: {
      description: 'The deliveries.',
      content: { 'application/json': rest.webhookDeliveryListSchema },
    },
  },
});

const REDELIVER = defineEndpoint({
  method: 'post',
  path: '/v1/webhooks/{id}/redeliver',
  operationId: 'redeliverWebhook',
  access: 'webhooks.write',
  summary: 'Queue again what was given up',
  tag: TAG,
  params,
  responses: {
    200: {
      description: 'It is queued.',
      content: { 'application/json': rest.redeliveredSchema },
    },
  },
});

export function addWebhookRoutes(api: Api, webhooks: WebhookService, keys: IdempotencyKeys): void {
  addCreateEndpoint(api, keys, CREATE, {
    isPrivate: true,
    create: async (c, { body }, record) => {
      const { name, url, format, event_types: eventTypes } = body;
      const request = { name, url, format, eventTypes };
      const { webhook, secret } = await webhooks.create(c.get('principal'), request, record);
      return c.json({ ...presentWebhook(webhook), secret } satisfies rest.CreatedWebhook, 201);
    },
    outcome: async (c, _, { ids: [id = ''], secret = '' }) => {
      const webhook = await webhooks.get(c.get('principal'), id);
      return c.json({ ...presentWebhook(webhook), secret } satisfies rest.CreatedWebhook, 201);
    },
  });
  addEndpoint(api, LIST, async (c, { query }) => {
    const { entries } = await readPage(
      c,
      BY_NAME,
      query,
      (page) => webhooks.list(c.get('principal'), page),
      ({ name }) => name,
    );
    return c.json(entries.map(presentWebhook));
  });
  addEndpoint(api, GET, async (c, { params: { id } }) =>
    c.json(presentWebhook(await webhooks.get(c.get('principal'), id))),
  );
  addEndpoint(api, UPDATE, async (c, { params: { id }, body }) => {
    const { event_types: eventTypes, ...changes } = body;
    const updated = await webhooks.update(c.get('principal'), id, { ...changes, eventTypes });
    return c.json(presentWebhook(updated));
  });
  addEndpoint(api, ROTATE_SECRET, async (c, { params: { id } }) => {
    const { webhook, secret } = await webhooks.rotateSecret(c.get('principal'), id);
    c.header('Cache-Control', 'no-store');
    return c.json({ ...presentWebhook(webhook), secret } satisfies rest.CreatedWebhook);
  });
  addEndpoint(api, DELETE, async (c, { params: { id } }) => {
    await webhooks.delete(c.get('principal'), id);
    return c.body(null, 204);
  });
  addEndpoint(api, TEST, async (c, { params: { id } }) => {
    const { retryAfterMs: _, ...attempt } = await webhooks.test(c.get('principal'), id);
    return c.json(attempt satisfies rest.WebhookAttempt);
  });
  addEndpoint(api, DELIVERIES, async (c, { params: { id }, query }) => {
    const { entries } = await readPage(
      c,
      DELIVERY_IDS,
      query,
      (page) => webhooks.deliveries(c.get('principal'), id, query.state, page),
      (delivery) => delivery.id,
    );
    return c.json(entries.map(presentDelivery));
  });
  addEndpoint(api, REDELIVER, async (c, { params: { id } }) =>
    c.json({ queued: await webhooks.redeliver(c.get('principal'), id) }),
  );
}

function presentWebhook(webhook: Webhook): rest.Webhook {
  const { id, team_id, name, host, format, event_types, enabled } = webhook;
  return {
    id,
    team_id,
    name,
    host,
    format,
    event_types,
    enabled,
    created_at: webhook.created_at.toISOString(),
    updated_at: webhook.updated_at.toISOString(),
  };
}

function presentDelivery(delivery: Delivery): rest.WebhookDelivery {
  const { id, event_id, event, state, attempts, last_status, last_error, finished_at } = delivery;
  return {
    id,
    event_id,
    event_type: event.type,
    resource_id: event.resource.id,
    state,
    attempts,
    ...(state === 'pending' ? { next_attempt_at: delivery.next_attempt_at.toISOString() } : {}),
    ...(last_status === null ? {} : { last_status }),
    ...(last_error === null ? {} : { last_error }),
    created_at: delivery.created_at.toISOString(),
    ...(finished_at === null ? {} : { finished_at: finished_at.toISOString() }),
  };
}
