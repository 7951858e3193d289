import * as rest from '@torpor/protocol/rest';
import type { z } from 'zod';
import type { Connection, CreateOptions } from './http/connection.ts';
import { withSdkNames } from './http/field-names.ts';

export interface WebhookSettings {
  /** Unique in the team. */
  readonly name: string;
  readonly url: string;
  /** Types of events, or kinds and `.*`: `sandbox.*`. */
  readonly eventTypes: readonly string[];
  /** The default is `json`, the event with a signature of the Standard Webhooks specification. */
  readonly format?: rest.Webhook['format'] | undefined;
}

/** What is undefined stays as it is. */
export type WebhookChanges = {
  readonly [K in keyof WebhookSettings]?: WebhookSettings[K] | undefined;
} & {
  /** `false`: nothing is queued or sent until it is `true` again. */
  readonly enabled?: boolean | undefined;
};

export interface ListDeliveriesOptions {
  readonly state?: rest.WebhookDelivery['state'] | undefined;
  /** The default is 100. */
  readonly limit?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

const DEFAULT_DELIVERIES = 100;
const MAX_PAGE = 200;

/** Addresses to which events of the team are sent. */
export class Webhooks {
  readonly #connection: Connection;

  constructor(connection: Connection) {
    this.#connection = connection;
  }

  /** The result has the secret of the signatures, which cannot be retrieved later. */
  create(settings: WebhookSettings, options: CreateOptions = {}): Promise<rest.CreatedWebhook> {
    const { name, url, format, eventTypes } = settings;
    const body: z.input<typeof rest.createWebhookSchema> = {
      name,
      url,
      format,
      event_types: [...eventTypes],
    };
    return withSdkNames(
      this.#connection.create('/v1/webhooks', rest.createdWebhookSchema, {
        json: body,
        ...options,
      }),
    );
  }

  /** By name. */
  list(signal?: AbortSignal): Promise<rest.Webhook[]> {
    return Array.fromAsync(
      this.#connection.pages('/v1/webhooks', rest.webhookListSchema, { signal }),
    );
  }

  get(id: string, signal?: AbortSignal): Promise<rest.Webhook> {
    return this.#connection.json('GET', path(id), rest.webhookSchema, { signal });
  }

  update(id: string, changes: WebhookChanges, signal?: AbortSignal): Promise<rest.Webhook> {
    const { eventTypes, ...others } = changes;
    const body: z.input<typeof rest.updateWebhookSchema> = {
      ...others,
      event_types: eventTypes === undefined ? undefined : [...eventTypes],
    };
    return withSdkNames(
      this.#connection.json('PATCH', path(id), rest.webhookSchema, { json: body, signal }),
    );
  }

  /** The result has the new secret. For a day messages are signed with the previous one too. */
  rotateSecret(id: string, signal?: AbortSignal): Promise<rest.CreatedWebhook> {
    return this.#connection.json('POST', path(id, '/rotate-secret'), rest.createdWebhookSchema, {
      signal,
    });
  }

  /** Events that are queued for it are not sent. */
  async delete(id: string, signal?: AbortSignal): Promise<void> {
    await this.#connection.empty('DELETE', path(id), { signal });
  }

  /** Sends an event `webhook.test` now. */
  test(id: string, signal?: AbortSignal): Promise<rest.WebhookAttempt> {
    return this.#connection.json('POST', path(id, '/test'), rest.webhookAttemptSchema, { signal });
  }

  /** What was sent and is to be sent, newest first. */
  async deliveries(
    id: string,
    options: ListDeliveriesOptions = {},
  ): Promise<rest.WebhookDelivery[]> {
    const { state, limit = DEFAULT_DELIVERIES, signal } = options;
    const found: rest.WebhookDelivery[] = [];
    if (limit <= 0) return found;
    const pages = this.#connection.pages(path(id, '/deliveries'), rest.webhookDeliveryListSchema, {
      query: { state },
      pageSize: Math.min(limit, MAX_PAGE),
      signal,
    });
    for await (const delivery of pages) {
      found.push(delivery);
      if (found.length >= limit) break;
    }
    return found;
  }

  /** Queues again the deliveries that were given up. Returns how many. */
  async redeliver(id: string, signal?: AbortSignal): Promise<number> {
    const { queued } = await this.#connection.json(
      'POST',
      path(id, '/redeliver'),
      rest.redeliveredSchema,
      { signal },
    );
    return queued;
  }
}

function path(id: string, suffix = ''): string {
  return `/v1/webhooks/${encodeURIComponent(id)}${suffix}`;
}
