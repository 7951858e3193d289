import type { Kysely, Transaction } from 'kysely';
import type { Database } from '../database/schema.ts';

export interface RecordingParts {
  readonly db: Kysely<Database>;
  /** Called after a transaction with events. */
  readonly onEvents: () => void;
}

/** Runs a transaction that appends events. */
export async function recorded<T>(
  { db, onEvents }: RecordingParts,
  work: (transaction: Transaction<Database>) => Promise<T>,
): Promise<T> {
  const result = await db.transaction().execute(work);
  onEvents();
  return result;
}
