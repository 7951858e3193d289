import { type Kysely, sql } from 'kysely';
import type { Migration } from 'kysely/migration';

/** What keys could do before they had scopes, and what every key can do since. */
const MEMBER =
  '{sandboxes.read,sandboxes.write,sandboxes.exec,snapshots.read,snapshots.write,events.read,usage.read}' as const;
const OPERATOR = '{keys.read,keys.write,webhooks.read,webhooks.write,audit.read,platform}' as const;

export const apiKeysAndAudit: Migration = {
  async up(db: Kysely<unknown>): Promise<void> {
    await db.schema
      .alterTable('api_keys')
      .addColumn('scopes', sql`text[]`, (column) => column.notNull().defaultTo(MEMBER))
      .addColumn('created_by', 'text')
      .addColumn('expires_at', 'timestamptz')
      .execute();
    // The first team is that of the operator, whose keys could look after builds.
    await sql`
      update api_keys set scopes = scopes || ${OPERATOR}::text[]
      where team_id = (select id from teams order by created_at limit 1)`.execute(db);
    await sql`alter table api_keys alter column scopes drop default`.execute(db);
    await db.schema.createIndex('api_keys_team').on('api_keys').column('team_id').execute();

    for (const table of ['outbox', 'operations', 'audit_logs']) {
      await db.schema.alterTable(table).addColumn('actor_name', 'text').execute();
    }
    // Milliseconds, as the API shows them: a page continues from the time of its last entry.
    await sql`
      alter table audit_logs alter column created_at type timestamptz(3)
      using date_trunc('milliseconds', created_at)`.execute(db);
    await db.schema
      .createIndex('audit_logs_resource')
      .on('audit_logs')
      .columns(['team_id', 'resource_id', 'created_at desc', 'id desc'])
      .execute();
  },
};
