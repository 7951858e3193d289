import { type Kysely, sql } from 'kysely';
import type { Migration } from 'kysely/migration';

export const operations: Migration = {
  async up(db: Kysely<unknown>): Promise<void> {
    await db.schema
      .alterTable('sandboxes')
      .addColumn('revision', 'integer', (column) => column.notNull().defaultTo(0))
      .execute();

    await db.schema
      .createTable('operations')
      .addColumn('resource', 'text', (column) => column.primaryKey())
      .addColumn('holder', 'text', (column) => column.notNull())
      .addColumn('begun_by', 'text', (column) => column.notNull())
      .addColumn('kind', 'text', (column) => column.notNull())
      .addColumn('team_id', 'text')
      .addColumn('actor_type', 'text', (column) => column.notNull())
      .addColumn('actor_id', 'text')
      .addColumn('expires_at', 'timestamptz', (column) => column.notNull())
      .execute();

    await db.schema
      .createTable('outbox')
      .addColumn('id', 'bigint', (column) => column.primaryKey().generatedAlwaysAsIdentity())
      .addColumn('kind', 'text', (column) => column.notNull())
      .addColumn('resource', 'text', (column) => column.notNull())
      .addColumn('team_id', 'text', (column) => column.notNull())
      .addColumn('actor_type', 'text', (column) => column.notNull())
      .addColumn('actor_id', 'text')
      .addColumn('status', 'text', (column) => column.notNull())
      .addColumn('metadata', 'jsonb', (column) => column.notNull().defaultTo(sql`'{}'::jsonb`))
      .addColumn('created_at', 'timestamptz', (column) =>
        column.notNull().defaultTo(sql`clock_timestamp()`),
      )
      .addColumn('delivered_at', 'timestamptz')
      .execute();
    await sql`create index outbox_undelivered on outbox (id) where delivered_at is null`.execute(
      db,
    );
    await sql`create index outbox_delivered on outbox (delivered_at) where delivered_at is not null`.execute(
      db,
    );

    // Makes the consumer idempotent: an event has one entry.
    await db.schema
      .alterTable('audit_logs')
      .addColumn('outbox_id', 'bigint', (column) => column.unique())
      .execute();
  },
};
