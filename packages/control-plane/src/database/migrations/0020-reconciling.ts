import { type Kysely, sql } from 'kysely';
import type { Migration } from 'kysely/migration';

export const reconciling: Migration = {
  async up(db: Kysely<unknown>): Promise<void> {
    await db.schema
      .createTable('control_planes')
      .addColumn('id', 'text', (column) => column.primaryKey())
      .addColumn('expires_at', 'timestamptz', (column) => column.notNull())
      .execute();
    await db.schema
      .alterTable('hosts')
      // A control plane that is removed, because its lease expired, leaves its hosts to the others.
      .addColumn('reconciled_by', 'text', (column) =>
        column.references('control_planes.id').onDelete('set null'),
      )
      .execute();
    // The removal looks for them.
    await db.schema
      .createIndex('hosts_reconciled_by')
      .on('hosts')
      .column('reconciled_by')
      .execute();

    await db.schema.alterTable('sandboxes').addColumn('lost_from', 'text').execute();
    // What it was is not known: as one that runs, it takes what it may take at most.
    await sql`
      update sandboxes set state = 'unreachable', lost_from = 'running', revision = revision + 1
      where state = 'missing'`.execute(db);
    // From here on its host has nothing of one that is `missing`.
    await sql`
      create or replace function holds_memory(state text) returns boolean language sql immutable
      as $$ select state not in ('paused', 'error', 'stopped', 'missing') $$`.execute(db);

    // Those of a host are read in pages, by id.
    await db.schema.dropIndex('sandboxes_host_living').execute();
    await sql`
      create index sandboxes_host_living on sandboxes (host_id, id)
      where state <> 'stopped'`.execute(db);
  },
};
