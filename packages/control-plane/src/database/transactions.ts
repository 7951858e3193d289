/** How the outcome of a transaction is known whose connection broke in its commit. */
import { setTimeout as delay } from 'node:timers/promises';
import { TorporError } from '@torpor/protocol';
import { type Kysely, type RawBuilder, sql } from 'kysely';
import type { Database } from './schema.ts';

const POLL_MS = 50;
/** For the server to notice that the other side has gone. */
const LONGEST_WAIT_MS = 10_000;

/** The id of the transaction in which it is selected. */
export function currentTransaction(): RawBuilder<string> {
  return sql<string>`pg_current_xact_id()::text`;
}

/** Waits for one that the server is still at work on. */
export async function isCommitted(db: Kysely<Database>, transactionId: string): Promise<boolean> {
  const begun = Date.now();
  for (;;) {
    const { rows } = await sql<{ status: string | null }>`
      select pg_xact_status(${transactionId}::xid8) as status`.execute(db);
    const status = rows[0]?.status;
    if (status !== 'in progress') return status === 'committed';
    if (Date.now() - begun > LONGEST_WAIT_MS) {
      throw new TorporError('timeout', 'The database is still at work on the transaction.');
    }
    await delay(POLL_MS);
  }
}
