import { type Kysely, type RawBuilder, sql } from 'kysely';
import type { Database } from './schema.ts';

/** So many take well below the time limit of a statement, and hold their locks for a moment only. */
const BATCH_SIZE = 5_000;

/** Deletes the rows of a table for which the condition holds, however many there are. Returns how many. */
export async function removeRows(
  db: Kysely<Database>,
  table: keyof Database,
  condition: RawBuilder<boolean>,
  batchSize = BATCH_SIZE,
): Promise<number> {
  const rows = sql.table(table);
  for (let removed = 0; ; ) {
    const { numAffectedRows = 0n } = await sql`
      delete from ${rows} where ctid = any (array (
        select ctid from ${rows} where ${condition} limit ${batchSize}))`.execute(db);
    removed += Number(numAffectedRows);
    if (numAffectedRows < batchSize) return removed;
  }
}

/** Whether a time is longer ago than so many milliseconds, by the clock of the database. */
export function isOlder(column: string, ms: number): RawBuilder<boolean> {
  return sql<boolean>`${sql.ref(column)} <= now() - make_interval(secs => ${ms / 1000})`;
}
