import type { Kysely } from 'kysely';
import type { Logger } from 'pino';
import type { Database } from '../database/schema.ts';
import { removeAuditEntries } from '../events/audit-log.ts';
import { removeDelivered } from '../events/outbox.ts';
import type { IdempotencyKeys } from '../idempotency/keys.ts';
import { PeriodicTask } from '../jobs/periodic-task.ts';
import { removeFinishedDeliveries } from '../webhooks/dispatcher.ts';
import type { SandboxRepository } from './repository.ts';

export interface RetentionOptions {
  /** How long a destroyed sandbox stays listed. */
  readonly keepStoppedMs: number;
  /** How long the audit log keeps its entries. */
  readonly keepAuditMs: number;
  /** An hour if omitted. */
  readonly intervalMs?: number;
}

/** Delivered events are kept for inspection. */
const KEEP_EVENTS_MS = 7 * 24 * 60 * 60_000;

interface Parts {
  readonly db: Kysely<Database>;
  readonly sandboxes: SandboxRepository;
  readonly idempotency: IdempotencyKeys;
  readonly logger: Logger;
}

/** Removes what is kept for a time only: rows of destroyed sandboxes, events, entries of the audit log, deliveries of webhooks, responses to requests with an idempotency key. */
export function startRetention(
  { db, sandboxes, idempotency, logger }: Parts,
  { keepStoppedMs, keepAuditMs, intervalMs = 60 * 60_000 }: RetentionOptions,
): AsyncDisposable {
  return new PeriodicTask(
    { intervalMs, logger, failure: 'Could not remove old rows' },
    async () => {
      const removed = await sandboxes.removeStopped(keepStoppedMs);
      if (removed > 0) logger.info({ removed }, 'Rows of destroyed sandboxes removed');
      await removeDelivered(db, KEEP_EVENTS_MS);
      const entries = await removeAuditEntries(db, keepAuditMs);
      if (entries > 0) logger.info({ removed: entries }, 'Old entries of the audit log removed');
      await removeFinishedDeliveries(db);
      await idempotency.removeOld();
    },
  );
}
