import { type Kysely, sql } from 'kysely';
import type { Migration } from 'kysely/migration';

export const usage: Migration = {
  async up(db: Kysely<unknown>): Promise<void> {
    await db.schema
      .createTable('usage_intervals')
      .addColumn('id', 'bigint', (column) => column.primaryKey().generatedAlwaysAsIdentity())
      .addColumn('team_id', 'text', (column) => column.notNull())
      .addColumn('resource_type', 'text', (column) => column.notNull())
      .addColumn('resource', 'text', (column) => column.notNull())
      .addColumn('vcpus', 'integer', (column) => column.notNull())
      .addColumn('memory_mb', 'integer', (column) => column.notNull())
      .addColumn('disk_mb', 'integer', (column) => column.notNull())
      .addColumn('started_at', 'timestamptz', (column) => column.notNull())
      .addColumn('ended_at', 'timestamptz')
      .execute();
    await sql`
      create unique index usage_intervals_open on usage_intervals (team_id, resource_type, resource)
      where ended_at is null`.execute(db);
    await sql`
      create index usage_intervals_team on usage_intervals (team_id, coalesce(ended_at, 'infinity'))`.execute(
      db,
    );

    // What there is already counts from now on.
    await sql`
      insert into usage_intervals
        (team_id, resource_type, resource, vcpus, memory_mb, disk_mb, started_at)
      select team_id, 'sandbox', id,
        case when state in ('paused', 'error') then 0 else vcpus end,
        case when state in ('paused', 'error') then 0 else memory_mb end,
        coalesce(disk_size_mb, 0), now()
      from sandboxes where state not in ('creating', 'stopped')`.execute(db);
    await sql`
      insert into usage_intervals
        (team_id, resource_type, resource, vcpus, memory_mb, disk_mb, started_at)
      select team_id, 'snapshot', name, 0, 0, ceil(size_bytes / 1048576.0), now()
      from templates where state = 'ready' and type = 'snapshot'`.execute(db);
  },
};
