import { createHmac, timingSafeEqual } from 'node:crypto';
import { TorporError } from '@torpor/protocol/basics';
import * as rest from '@torpor/protocol/rest';

/** A request that a receiver of webhooks got. */
export interface ReceivedWebhook {
  /** Of `node:http`, or of fetch. */
  readonly headers: Headers | Readonly<Record<string, string | readonly string[] | undefined>>;
  /** As it was received: parsing it and writing it again may change it. */
  readonly body: string | Uint8Array;
}

export interface VerifyWebhookOptions {
  /** How old a message may be, and how far the clocks may differ. The default is five minutes. */
  readonly toleranceMs?: number | undefined;
}

const DEFAULT_TOLERANCE_MS = 5 * 60_000;
const SECRET_PREFIX = 'whsec_';
const SIGNATURE_PREFIX = 'v1,';

/**
 * The event of a request to a webhook of the format `json`, if it is signed with the secret and
 * was sent just now. Throws `unauthorized` otherwise. An event may arrive twice, with the same
 * `id`: one that was handled before can be accepted and dropped.
 */
export function verifyWebhook(
  request: ReceivedWebhook,
  secret: string,
  options: VerifyWebhookOptions = {},
): rest.Event {
  verifySignature(request, secret, options);
  const { body } = request;
  const text = typeof body === 'string' ? body : new TextDecoder().decode(body);
  try {
    return rest.eventSchema.parse(JSON.parse(text));
  } catch (cause) {
    throw new TorporError('invalid_request', 'The message is signed, but is no event.', { cause });
  }
}

/** Checks the headers of the Standard Webhooks specification. */
export function verifySignature(
  { headers, body }: ReceivedWebhook,
  secret: string,
  { toleranceMs = DEFAULT_TOLERANCE_MS }: VerifyWebhookOptions,
): void {
  const id = header(headers, 'webhook-id');
  const timestamp = header(headers, 'webhook-timestamp');
  const key = Buffer.from(secret.slice(SECRET_PREFIX.length), 'base64');
  const expected = createHmac('sha256', key).update(`${id}.${timestamp}.`).update(body).digest();
  const signatures = header(headers, 'webhook-signature').split(' ');
  if (!signatures.some((signature) => isSignature(signature, expected))) {
    throw refused('The message is not signed with the secret of the webhook.');
  }
  // Who records a message cannot send it again later.
  if (!(Math.abs(Date.now() - Number(timestamp) * 1000) <= toleranceMs)) {
    throw refused('The message was not sent just now, or the clocks differ.');
  }
}

function isSignature(text: string, expected: Uint8Array): boolean {
  if (!text.startsWith(SIGNATURE_PREFIX)) return false;
  const signature = Buffer.from(text.slice(SIGNATURE_PREFIX.length), 'base64');
  return signature.length === expected.length && timingSafeEqual(signature, expected);
}

function header(headers: ReceivedWebhook['headers'], name: string): string {
  const value = headers instanceof Headers ? headers.get(name) : headers[name];
  if (typeof value === 'string') return value;
  throw refused(`The message has no header ${name}.`);
}

function refused(message: string): TorporError {
  return new TorporError('unauthorized', message, { remedy: 'Answer it with the status 401.' });
}
