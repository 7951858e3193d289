import { type Kysely, sql } from 'kysely';
import type { Migration } from 'kysely/migration';

export const idempotencyAndQuotas: Migration = {
  async up(db: Kysely<unknown>): Promise<void> {
    await db.schema
      .createTable('idempotency_keys')
      .addColumn('team_id', 'text', (column) =>
        column.notNull().references('teams.id').onDelete('cascade'),
      )
      .addColumn('key', 'text', (column) => column.notNull())
      .addColumn('fingerprint', 'text', (column) => column.notNull())
      .addColumn('holder', 'text', (column) => column.notNull())
      .addColumn('expires_at', 'timestamptz', (column) => column.notNull())
      // Encrypted, because the response to a create may have a secret in it.
      .addColumn('made', 'text')
      .addColumn('response', 'text')
      .addColumn('created_at', 'timestamptz', (column) => column.notNull().defaultTo(sql`now()`))
      .addPrimaryKeyConstraint('idempotency_keys_pkey', ['team_id', 'key'])
      .execute();
    await db.schema
      .createIndex('idempotency_keys_created')
      .on('idempotency_keys')
      .column('created_at')
      .execute();

    await db.schema
      .createTable('team_quotas')
      .addColumn('team_id', 'text', (column) =>
        column.notNull().references('teams.id').onDelete('cascade'),
      )
      .addColumn('name', 'text', (column) => column.notNull())
      // Null: no limit. Without a row the platform's default applies.
      .addColumn('maximum', 'bigint')
      .addPrimaryKeyConstraint('team_quotas_pkey', ['team_id', 'name'])
      .execute();
    // The operator's own team is limited by its machines only.
    await sql`
      insert into team_quotas (team_id, name)
      select first.id, name from (select id from teams order by created_at limit 1) as first,
        unnest('{running_sandboxes,vcpus,memory_mb,disk_mb,snapshots,api_keys,webhooks}'::text[]) as name`.execute(
      db,
    );
    await sql`create index sandboxes_team_living on sandboxes (team_id) where state <> 'stopped'`.execute(
      db,
    );

    // Milliseconds, as a page token has them.
    await sql`
      alter table api_keys alter column created_at type timestamptz(3)
      using date_trunc('milliseconds', created_at)`.execute(db);
  },
};
