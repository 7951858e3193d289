import { type Kysely, sql } from 'kysely';
import type { Migration } from 'kysely/migration';

export const hosts: Migration = {
  async up(db: Kysely<unknown>): Promise<void> {
    await db.schema
      .createTable('hosts')
      .addColumn('id', 'text', (column) => column.primaryKey())
      .addColumn('kind', 'text', (column) => column.notNull())
      .addColumn('name', 'text', (column) => column.notNull())
      .addColumn('team_id', 'text', (column) => column.references('teams.id'))
      .addColumn('audit_team_id', 'text', (column) => column.notNull())
      .addColumn('instance', 'text')
      .addColumn('state', 'text', (column) => column.notNull())
      .addColumn('draining', 'boolean', (column) => column.notNull().defaultTo(false))
      .addColumn('tags', sql`text[]`, (column) => column.notNull().defaultTo('{}'))
      .addColumn('address', 'text')
      .addColumn('arch', 'text')
      .addColumn('vcpus', 'integer')
      .addColumn('memory_mb', 'integer')
      .addColumn('disk_mb', 'integer')
      .addColumn('free_disk_mb', 'integer')
      .addColumn('builds', 'integer')
      .addColumn('agent_version', 'text')
      .addColumn('last_heartbeat_at', 'timestamptz')
      .addColumn('certificate_expires_at', 'timestamptz')
      .addColumn('created_by', 'text')
      .addColumn('created_at', 'timestamptz', (column) => column.notNull().defaultTo(sql`now()`))
      .addColumn('updated_at', 'timestamptz', (column) => column.notNull().defaultTo(sql`now()`))
      .execute();

    await db.schema
      .createTable('host_tokens')
      .addColumn('token_hash', 'text', (column) => column.primaryKey())
      .addColumn('host_id', 'text', (column) =>
        column.notNull().references('hosts.id').onDelete('cascade'),
      )
      .addColumn('key_hash', 'text')
      .addColumn('expires_at', 'timestamptz', (column) => column.notNull())
      .execute();
    await db.schema.createIndex('host_tokens_host').on('host_tokens').column('host_id').execute();

    await db.schema
      .createTable('authority')
      // There is one.
      .addColumn('id', 'integer', (column) => column.primaryKey().check(sql`id = 1`))
      .addColumn('certificate', 'text', (column) => column.notNull())
      .addColumn('private_key', 'text', (column) => column.notNull())
      .addColumn('created_at', 'timestamptz', (column) => column.notNull().defaultTo(sql`now()`))
      .execute();

    // Who operates the platform may look after its hosts.
    await sql`
      update api_keys set scopes = scopes || '{hosts.read,hosts.write}'::text[]
      where 'platform' = any (scopes)`.execute(db);
  },
};
