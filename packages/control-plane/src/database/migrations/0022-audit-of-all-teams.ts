import { type Kysely, sql } from 'kysely';
import type { Migration } from 'kysely/migration';

/** The audit log of all teams in its order, and webhooks whose secret was replaced. */
export const auditOfAllTeams: Migration = {
  async up(db: Kysely<unknown>): Promise<void> {
    await sql`create index audit_logs_all on audit_logs (created_at desc, id desc)`.execute(db);
    await db.schema
      .alterTable('webhooks')
      .addColumn('previous_secret', 'text')
      .addColumn('previous_secret_until', 'timestamptz')
      .execute();
  },
};
