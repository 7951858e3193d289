/** Finds out the outcome of a transaction whose connection broke during the commit. */
import { setTimeout as delay } from 'node:timers/promises';
import { TorporError } from '@torpor/protocol';
import { type Kysely, type RawBuilder, sql } from 'kysely';
import type { Database } from './schema.ts';

const POLL_MS = 50;
/** For the server to notice that the client has disconnected. */
const LONGEST_WAIT_MS = 10_000;

/** An expression for the id of the current transaction. */
export function currentTransaction(): RawBuilder<string> {
  return sql<string>`pg_current_xact_id()::text`;
}

/** Waits if the server is still executing it. */
export async function isCommitted(db: Kysely<Database>, transactionId: string): Promise<boolean> {
  const begun = Date.now();
  for (;;) {
    const { rows } = await sql<{ status: string | null }>`
      select pg_xact_status(${transactionId}::xid8) as status`.execute(db);
    const status = rows[0]?.status;
    if (status !== 'in progress') return status === 'committed';
    if (Date.now() - begun > LONGEST_WAIT_MS) {
      throw new TorporError('timeout', 'The database is still working on the transaction.');
    }
    await delay(POLL_MS);
  }
}
