/**
 * Sends the mail that is queued. A mail is a row until the mail server has accepted it. Who sends
 * one holds it for a while ({@link CLAIM_MS}), so that of several control planes one does; if
 * that dies after the server has accepted it, and before it could note so, the mail is sent again
 * with the same Message-ID.
 */
import { TorporError } from '@torpor/protocol';
import { type Kysely, type Selectable, sql } from 'kysely';
import type { Logger } from 'pino';
import type { Database, MailTable } from '../database/schema.ts';
import { PeriodicTask } from '../jobs/periodic-task.ts';
import { type RenderedMail, renderMail, renderReset } from './message.ts';
import type { MailQueue } from './queue.ts';
import type { MailAttempt, MailTransport } from './transport.ts';

type Mail = Pick<
  Selectable<MailTable>,
  'id' | 'recipient' | 'kind' | 'sealed' | 'attempts' | 'created_at'
>;

/** Longer than sending one may take. */
const CLAIM_MS = 120_000;
const KEEP_FINISHED_MS = 7 * 24 * 3_600_000;

export interface MailTiming {
  readonly pollIntervalMs: number;
  /** Before the second attempt; each later one waits twice as long. */
  readonly firstRetryMs: number;
  readonly longestRetryMs: number;
  /** Then the mail is dead. With the other defaults it is tried for about nine hours. */
  readonly maxAttempts: number;
}

const DEFAULT_TIMING: MailTiming = {
  pollIntervalMs: 1_000,
  firstRetryMs: 10_000,
  longestRetryMs: 3_600_000,
  maxAttempts: 16,
};

export interface MailParts {
  readonly db: Kysely<Database>;
  readonly queue: MailQueue;
  readonly transport: MailTransport;
  /** Makes the token of a link that sets the password of an account; undefined if there is none. */
  readonly resetToken: (email: string) => Promise<string | undefined>;
  /** Where browsers find the server. */
  readonly publicUrl: string;
  readonly logger: Logger;
}

export function startMailDispatcher(
  parts: MailParts,
  timing: Partial<MailTiming> = {},
): AsyncDisposable {
  const { pollIntervalMs: intervalMs, ...retries } = { ...DEFAULT_TIMING, ...timing };
  const task = { intervalMs, logger: parts.logger, failure: 'Could not send mail' };
  return new PeriodicTask(task, async (signal) => {
    while (!signal.aborted) {
      const mail = await claim(parts.db);
      if (mail === undefined) break;
      await record(parts, retries, mail, await send(parts, mail));
    }
    await removeFinished(parts.db);
  });
}

async function claim(db: Kysely<Database>): Promise<Mail | undefined> {
  const { rows } = await sql<Mail>`
    update mails set
      attempts = attempts + 1, next_attempt_at = now() + ${CLAIM_MS} * interval '1 millisecond'
    where id = (
      select id from mails where state = 'pending' and next_attempt_at <= now()
      order by next_attempt_at limit 1 for update skip locked)
    returning id, recipient, kind, sealed, attempts, created_at`.execute(db);
  return rows[0];
}

type Outcome = MailAttempt | { readonly result: 'dropped' };

async function send(parts: MailParts, mail: Mail): Promise<Outcome> {
  try {
    const rendered = await render(parts, mail);
    if (rendered === undefined) return { result: 'dropped' };
    return await parts.transport.send(
      `${mail.id}.${mail.created_at.getTime()}`,
      mail.recipient,
      rendered,
    );
  } catch (reason) {
    return { result: 'failed', error: TorporError.from(reason).message };
  }
}

/** Undefined if there is nothing to be sent. */
async function render(
  { queue, resetToken, publicUrl }: MailParts,
  { recipient, sealed }: Mail,
): Promise<RenderedMail | undefined> {
  if (sealed === null) return undefined;
  const message = queue.open(sealed);
  if (message.kind !== 'password_reset') return renderMail(message, publicUrl);
  const token = await resetToken(recipient);
  return token === undefined ? undefined : renderReset(queue.link('password', token), publicUrl);
}

async function record(
  { db, logger }: MailParts,
  { firstRetryMs, longestRetryMs, maxAttempts }: Omit<MailTiming, 'pollIntervalMs'>,
  { id, kind, attempts }: Mail,
  outcome: Outcome,
): Promise<void> {
  const error = 'error' in outcome ? outcome.error : null;
  const isDead =
    outcome.result === 'refused' || (outcome.result === 'failed' && attempts >= maxAttempts);
  const isPending = outcome.result === 'failed' && !isDead;
  const base = Math.min(firstRetryMs * 2 ** (attempts - 1), longestRetryMs);
  const retryMs = base * (0.9 + 0.2 * Math.random());
  await db
    .updateTable('mails')
    .set({
      last_error: error,
      ...(isPending
        ? { next_attempt_at: new Date(Date.now() + retryMs) }
        : { state: isDead ? 'dead' : 'sent', sealed: null, finished_at: new Date() }),
    })
    .where('id', '=', id)
    .where('state', '=', 'pending')
    .execute();
  const fields = { mail: id, kind, attempts, ...(error === null ? {} : { error }) };
  if (isDead) logger.warn(fields, 'Mail given up');
  else if (isPending) logger.info(fields, 'Mail could not be sent; will retry');
  else logger.debug(fields, 'Mail sent');
}

async function removeFinished(db: Kysely<Database>): Promise<void> {
  await db
    .deleteFrom('mails')
    .where('state', '<>', 'pending')
    .where('finished_at', '<=', new Date(Date.now() - KEEP_FINISHED_MS))
    .execute();
}
