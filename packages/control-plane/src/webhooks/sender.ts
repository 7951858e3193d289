import { TorporError } from '@torpor/protocol';
import type { Kysely } from 'kysely';
import { type Agent, request } from 'undici';
import type { SecretBox } from '../auth/secret-box.ts';
import type { Database, EventDocument } from '../database/schema.ts';
import { messageFor } from './message.ts';
import { type AllowedNetworks, guardedAgent, parseTarget } from './target.ts';

const REQUEST_TIMEOUT_MS = 10_000;
export const SECRET_PURPOSE = 'webhook';

/** What came of sending an event. Nothing that the receiver sent is kept but this. */
export interface Attempt {
  readonly accepted: boolean;
  readonly status?: number;
  readonly error?: string;
  /** How long the receiver asks not to be called. */
  readonly retryAfterMs?: number | undefined;
}

interface Parts {
  readonly db: Kysely<Database>;
  readonly secrets: SecretBox;
  readonly allowedNetworks: AllowedNetworks;
}

/** Sends events to the addresses of webhooks. Redirects are not followed. */
export class WebhookSender implements AsyncDisposable {
  readonly #parts: Parts;
  readonly #agent: Agent;

  constructor(parts: Parts) {
    this.#parts = parts;
    this.#agent = guardedAgent(parts.allowedNetworks);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#agent.destroy();
  }

  /** Sends one event. Never throws. */
  async send(webhookId: string, event: EventDocument, signal?: AbortSignal): Promise<Attempt> {
    try {
      const { status, retryAfter } = await this.#post(webhookId, event, signal);
      if (status >= 200 && status < 300) return { accepted: true, status };
      const error = `The receiver returned status ${status}.`;
      return { accepted: false, status, error, retryAfterMs: parseRetryAfter(retryAfter) };
    } catch (reason) {
      return { accepted: false, error: describeFailure(reason) };
    }
  }

  async #post(
    webhookId: string,
    event: EventDocument,
    signal: AbortSignal | undefined,
  ): Promise<{ readonly status: number; readonly retryAfter: string | undefined }> {
    const { db, secrets, allowedNetworks } = this.#parts;
    const webhook = await db
      .selectFrom('webhooks')
      .select(['url', 'secret', 'previous_secret', 'previous_secret_until', 'format'])
      .where('id', '=', webhookId)
      .executeTakeFirst();
    if (webhook === undefined) throw new TorporError('not_found', 'The webhook was deleted.');
    const url = parseTarget(secrets.open(SECRET_PURPOSE, webhook.url), allowedNetworks);
    const now = Date.now();
    const previous = (webhook.previous_secret_until?.getTime() ?? 0) > now;
    const sealed = [webhook.secret, ...(previous ? [webhook.previous_secret ?? ''] : [])];
    const keys = sealed.map((key) => secrets.open(SECRET_PURPOSE, key));
    const { headers, body } = messageFor(event, webhook.format, keys, now);
    const timeout = AbortSignal.timeout(REQUEST_TIMEOUT_MS);
    const response = await request(url, {
      method: 'POST',
      dispatcher: this.#agent,
      headers: { ...headers, 'user-agent': 'Torpor-Webhook/1' },
      body,
      signal: AbortSignal.any([timeout, ...(signal === undefined ? [] : [signal])]),
    });
    // Nothing of the content is read: it may be endless.
    response.body.on('error', () => undefined).destroy();
    const { 'retry-after': retryAfter } = response.headers;
    return {
      status: response.statusCode,
      retryAfter: typeof retryAfter === 'string' ? retryAfter : undefined,
    };
  }
}

/** Seconds, or a date (RFC 9110, 10.2.3); undefined for anything else. */
function parseRetryAfter(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const ms = /^\d+$/.test(text) ? Number(text) * 1000 : Date.parse(text) - Date.now();
  return ms > 0 ? ms : undefined;
}

/** Why a request got no response, in a sentence or two. */
export function describeFailure(reason: unknown): string {
  // One for each address of a name.
  if (reason instanceof AggregateError) return reason.errors.map(describeFailure).join('; ');
  if (reason instanceof Error && reason.name === 'TimeoutError') {
    return `The receiver did not respond within ${REQUEST_TIMEOUT_MS / 1000} s.`;
  }
  return reason instanceof Error ? reason.message : String(reason);
}
