import { type Kysely, sql } from 'kysely';
import type { Migration } from 'kysely/migration';

/** Who answers for the tokens of hosts and for webhooks, which end with the rights of that user. */
export const responsibleUsers: Migration = {
  async up(db: Kysely<unknown>): Promise<void> {
    await db.schema
      .alterTable('host_tokens')
      .addColumn('team_id', 'text', (column) => column.references('teams.id').onDelete('cascade'))
      .addColumn('user_id', 'text', (column) => column.references('users.id').onDelete('cascade'))
      .addColumn('needs', sql`text[]`, (column) => column.notNull().defaultTo(sql`'{}'`))
      .execute();
    await db.schema.createIndex('host_tokens_user').on('host_tokens').column('user_id').execute();
    await db.schema
      .alterTable('webhooks')
      .addColumn('user_id', 'text', (column) => column.references('users.id').onDelete('set null'))
      .execute();
    await db.schema.createIndex('webhooks_user').on('webhooks').column('user_id').execute();
  },
};
