import type { Kysely } from 'kysely';
import type { Logger } from 'pino';
import type { AttemptLimiter } from '../auth/attempts.ts';
import type { Database } from '../database/schema.ts';
import { PeriodicTask } from '../jobs/periodic-task.ts';

const INTERVAL_MS = 3_600_000;

interface Parts {
  readonly db: Kysely<Database>;
  readonly limiter: AttemptLimiter;
  readonly logger: Logger;
}

/** Removes sessions, links and counts that have expired. None of them is valid until then. */
export function startCredentialExpiry({ db, limiter, logger }: Parts): AsyncDisposable {
  const task = { intervalMs: INTERVAL_MS, logger, failure: 'Could not remove expired sessions' };
  return new PeriodicTask(task, async () => {
    const now = new Date();
    for (const table of [
      'sessions',
      'invitations',
      'password_links',
      'oauth_attempts',
      'device_logins',
    ] as const) {
      await db.deleteFrom(table).where('expires_at', '<=', now).execute();
    }
    await limiter.removeExpired();
  });
}
