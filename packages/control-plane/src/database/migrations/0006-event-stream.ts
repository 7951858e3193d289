import { type Kysely, sql } from 'kysely';
import type { Migration } from 'kysely/migration';

export const eventStream: Migration = {
  async up(db: Kysely<unknown>): Promise<void> {
    await sql`create table event_stream (head bigint not null)`.execute(db);
    await sql`insert into event_stream values (0)`.execute(db);
    await db.schema.alterTable('outbox').addColumn('position', 'bigint').execute();
    await sql`create unique index outbox_position on outbox (position)`.execute(db);
    await sql`create index outbox_team_position on outbox (team_id, position)`.execute(db);
  },
};
