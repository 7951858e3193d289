import { type Kysely, sql } from 'kysely';
import type { Migration } from 'kysely/migration';

export const fences: Migration = {
  async up(db: Kysely<unknown>): Promise<void> {
    await sql`create sequence fences`.execute(db);
  },
};
