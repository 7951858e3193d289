import { type Kysely, sql } from 'kysely';
import type { Migration } from 'kysely/migration';

/** With which secret key the database is used, and which machine is a host since when. */
export const secretKeyAndMachines: Migration = {
  async up(db: Kysely<unknown>): Promise<void> {
    await db.schema
      .createTable('secret_key')
      // There is one.
      .addColumn('id', 'integer', (column) => column.primaryKey().check(sql`id = 1`))
      .addColumn('fingerprint', 'text', (column) => column.notNull())
      .addColumn('created_at', 'timestamptz', (column) => column.notNull().defaultTo(sql`now()`))
      .execute();
    await db.schema
      .alterTable('hosts')
      .addColumn('machine', 'text')
      .addColumn('joined_at', 'timestamptz')
      .execute();
  },
};
