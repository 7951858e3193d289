import pg from 'pg';

/** SQLSTATE of a row that a unique index refuses. */
const UNIQUE_VIOLATION = '23505';

export function isDuplicate(reason: unknown): boolean {
  return reason instanceof pg.DatabaseError && reason.code === UNIQUE_VIOLATION;
}
