import { createHmac, randomBytes } from 'node:crypto';
import type { EventDocument, WebhookFormat } from '../database/schema.ts';

const SECRET_PREFIX = 'whsec_';

/** A new secret for signatures: 32 random bytes, in the form of the Standard Webhooks specification. */
export function newWebhookSecret(): string {
  return `${SECRET_PREFIX}${randomBytes(32).toString('base64')}`;
}

export interface Message {
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

/** What is sent for an event, with a signature for each secret. `sentAt` is in milliseconds. */
export function messageFor(
  event: EventDocument,
  format: WebhookFormat,
  secrets: readonly string[],
  sentAt: number,
): Message {
  const body = JSON.stringify(bodyFor(event, format));
  return { headers: signatureHeaders(event.id, body, secrets, sentAt), body };
}

function bodyFor(event: EventDocument, format: WebhookFormat): object {
  switch (format) {
    case 'json':
      return event;
    case 'slack':
      return { text: sentence(event).replaceAll(/[&<>]/g, slackEntity), mrkdwn: false };
    case 'discord':
      return {
        content: sentence(event).replaceAll(/[\\*_~`|<>#[\]()@:-]/g, '\\$&'),
        allowed_mentions: { parse: [] },
      };
  }
}

/** Slack's mentions and links are in angle brackets. Names in a sentence are chosen by users. */
function slackEntity(character: string): string {
  return { '&': '&amp;', '<': '&lt;', '>': '&gt;' }[character] ?? character;
}

/** For people: `sandbox sb1… — pause (success), by ci`. */
function sentence({ type, status, resource, actor }: EventDocument): string {
  const [kind, action] = type.split('.');
  const who = actor.name ?? actor.id ?? actor.type;
  return `${kind} ${resource.id}: ${action} (${status}), by ${who}`;
}

/** The headers of the Standard Webhooks specification, whose libraries verify them. */
function signatureHeaders(id: string, body: string, secrets: readonly string[], sentAt: number) {
  const timestamp = String(Math.floor(sentAt / 1000));
  const signatures = secrets.map((secret) => {
    const key = Buffer.from(secret.slice(SECRET_PREFIX.length), 'base64');
    const signature = createHmac('sha256', key).update(`${id}.${timestamp}.${body}`);
    return `v1,${signature.digest('base64')}`;
  });
  return {
    'content-type': 'application/json',
    'webhook-id': id,
    'webhook-timestamp': timestamp,
    'webhook-signature': signatures.join(' '),
  };
}
