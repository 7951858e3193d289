import { type Kysely, sql } from 'kysely';
import type { Migration } from 'kysely/migration';

export const templates: Migration = {
  async up(db: Kysely<unknown>): Promise<void> {
    await db.schema
      .alterTable('sandboxes')
      .addColumn('auto_pause', 'boolean', (column) => column.notNull().defaultTo(false))
      .addColumn('build_id', 'text')
      .execute();

    await db.schema
      .createTable('templates')
      .addColumn('id', 'text', (column) => column.primaryKey())
      .addColumn('team_id', 'text', (column) => column.notNull().references('teams.id'))
      .addColumn('name', 'text', (column) => column.notNull())
      .addColumn('type', 'text', (column) => column.notNull())
      .addColumn('state', 'text', (column) => column.notNull())
      .addColumn('host_id', 'text', (column) => column.notNull())
      .addColumn('source_sandbox_id', 'text')
      .addColumn('build_id', 'text')
      .addColumn('vcpus', 'integer', (column) => column.notNull())
      .addColumn('memory_mb', 'integer', (column) => column.notNull())
      .addColumn('disk_size_mb', 'integer')
      .addColumn('size_bytes', 'bigint', (column) => column.notNull().defaultTo(0))
      .addColumn('metadata', 'jsonb', (column) => column.notNull().defaultTo(sql`'{}'::jsonb`))
      .addColumn('created_at', sql`timestamptz(3)`, (column) =>
        column.notNull().defaultTo(sql`now()`),
      )
      .execute();
    // Only a template that can be used takes its name, not one that is being created or removed.
    await sql`create unique index templates_team_name on templates (team_id, name) where state = 'ready'`.execute(
      db,
    );
    await sql`create index templates_host_unsettled on templates (host_id) where state <> 'ready'`.execute(
      db,
    );
  },
};
