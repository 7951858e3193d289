import type { ColumnType, JSONColumnType } from 'kysely';

/** Set by the database where the writer does not. */
export type DefaultedTime = ColumnType<Date, Date | undefined, Date>;
export type StringMap = JSONColumnType<Record<string, string>, string, string>;
/** Empty if the writer does not set it. */
export type DefaultedMap = JSONColumnType<Record<string, string>, string | undefined, string>;
