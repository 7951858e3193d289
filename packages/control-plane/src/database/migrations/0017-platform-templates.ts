import { type Kysely, sql } from 'kysely';
import type { Migration } from 'kysely/migration';

/** What sandboxes made from a template start programs with; a sandbox has it for the snapshots of it. */
export const platformTemplates: Migration = {
  async up(db: Kysely<unknown>): Promise<void> {
    for (const table of ['templates', 'sandboxes']) {
      await db.schema
        .alterTable(table)
        .addColumn('default_user', 'text')
        .addColumn('default_env', 'jsonb', (column) => column.notNull().defaultTo(sql`'{}'::jsonb`))
        .execute();
    }
  },
};
