import type { Kysely } from 'kysely';
import type { Logger } from 'pino';
import type { Database } from '../database/schema.ts';
import { removeDelivered } from '../events/outbox.ts';
import type { IdempotencyKeys } from '../idempotency/keys.ts';
import { PeriodicTask } from '../jobs/periodic-task.ts';
import type { SandboxRepository } from './repository.ts';

export interface RetentionOptions {
  /** How long a destroyed sandbox stays listed. */
  readonly keepStoppedMs: number;
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

/** Removes the rows of sandboxes that were destroyed long ago, old events, and the responses to old requests. The audit log keeps its entries. */
export function startRetention(
  { db, sandboxes, idempotency, logger }: Parts,
  { keepStoppedMs, intervalMs = 60 * 60_000 }: RetentionOptions,
): AsyncDisposable {
  return new PeriodicTask(
    { intervalMs, logger, failure: 'Could not remove old rows' },
    async () => {
      const removed = await sandboxes.removeStopped(keepStoppedMs);
      if (removed > 0) logger.info({ removed }, 'Rows of destroyed sandboxes removed');
      await removeDelivered(db, KEEP_EVENTS_MS);
      await idempotency.removeOld();
    },
  );
}
