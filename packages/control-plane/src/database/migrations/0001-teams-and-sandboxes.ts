import { type Kysely, sql } from 'kysely';
import type { Migration } from 'kysely/migration';

export const teamsAndSandboxes: Migration = {
  async up(db: Kysely<unknown>): Promise<void> {
    await createTeams(db);
    await createApiKeys(db);
    await createSandboxes(db);
    await createAuditLogs(db);
  },
};

async function createTeams(db: Kysely<unknown>): Promise<void> {
  await db.schema
    .createTable('teams')
    .addColumn('id', 'text', (column) => column.primaryKey())
    .addColumn('name', 'text', (column) => column.notNull())
    .addColumn('created_at', 'timestamptz', (column) => column.notNull().defaultTo(sql`now()`))
    .execute();
}

async function createApiKeys(db: Kysely<unknown>): Promise<void> {
  await db.schema
    .createTable('api_keys')
    .addColumn('id', 'text', (column) => column.primaryKey())
    .addColumn('team_id', 'text', (column) =>
      column.notNull().references('teams.id').onDelete('cascade'),
    )
    .addColumn('name', 'text', (column) => column.notNull())
    .addColumn('key_hash', 'text', (column) => column.notNull().unique())
    .addColumn('key_prefix', 'text', (column) => column.notNull())
    .addColumn('created_at', 'timestamptz', (column) => column.notNull().defaultTo(sql`now()`))
    .addColumn('last_used_at', 'timestamptz')
    .execute();
}

async function createSandboxes(db: Kysely<unknown>): Promise<void> {
  await db.schema
    .createTable('sandboxes')
    .addColumn('id', 'text', (column) => column.primaryKey())
    .addColumn('team_id', 'text', (column) => column.notNull().references('teams.id'))
    .addColumn('host_id', 'text', (column) => column.notNull())
    .addColumn('template', 'text', (column) => column.notNull())
    .addColumn('state', 'text', (column) => column.notNull())
    .addColumn('reason', 'text')
    .addColumn('vcpus', 'integer', (column) => column.notNull())
    .addColumn('memory_mb', 'integer', (column) => column.notNull())
    .addColumn('disk_size_mb', 'integer')
    .addColumn('timeout_sec', 'integer', (column) => column.notNull())
    .addColumn('allow_internet', 'boolean', (column) => column.notNull())
    .addColumn('host_ip', 'text')
    .addColumn('metadata', 'jsonb', (column) => column.notNull().defaultTo(sql`'{}'::jsonb`))
    .addColumn('versions', 'jsonb', (column) => column.notNull().defaultTo(sql`'{}'::jsonb`))
    // Milliseconds, as in the API: a cursor made from this time finds its row again.
    .addColumn('created_at', sql`timestamptz(3)`, (column) =>
      column.notNull().defaultTo(sql`now()`),
    )
    .addColumn('started_at', sql`timestamptz(3)`)
    .addColumn('last_active_at', sql`timestamptz(3)`)
    .addColumn('updated_at', sql`timestamptz(3)`, (column) =>
      column.notNull().defaultTo(sql`now()`),
    )
    .addColumn('ended_at', sql`timestamptz(3)`)
    .execute();
  await db.schema
    .createIndex('sandboxes_team_created')
    .on('sandboxes')
    .columns(['team_id', 'created_at desc', 'id desc'])
    .execute();
  // Stopped rows are kept forever; what runs must be found without reading them.
  await sql`create index sandboxes_host_living on sandboxes (host_id) where state <> 'stopped'`.execute(
    db,
  );
}

async function createAuditLogs(db: Kysely<unknown>): Promise<void> {
  await db.schema
    .createTable('audit_logs')
    .addColumn('id', 'text', (column) => column.primaryKey())
    .addColumn('team_id', 'text', (column) => column.notNull())
    .addColumn('actor_type', 'text', (column) => column.notNull())
    .addColumn('actor_id', 'text')
    .addColumn('resource_type', 'text', (column) => column.notNull())
    .addColumn('resource_id', 'text', (column) => column.notNull())
    .addColumn('action', 'text', (column) => column.notNull())
    .addColumn('status', 'text', (column) => column.notNull())
    .addColumn('metadata', 'jsonb', (column) => column.notNull().defaultTo(sql`'{}'::jsonb`))
    .addColumn('created_at', 'timestamptz', (column) => column.notNull().defaultTo(sql`now()`))
    .execute();
  await db.schema
    .createIndex('audit_logs_team_created')
    .on('audit_logs')
    .columns(['team_id', 'created_at desc', 'id desc'])
    .execute();
}
