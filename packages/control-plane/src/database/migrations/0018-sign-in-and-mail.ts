import { type Kysely, sql } from 'kysely';
import type { Migration } from 'kysely/migration';

export const signInAndMail: Migration = {
  async up(db: Kysely<unknown>): Promise<void> {
    await db.schema
      .createTable('identities')
      .addColumn('id', 'text', (column) => column.primaryKey())
      .addColumn('user_id', 'text', (column) =>
        column.notNull().references('users.id').onDelete('cascade'),
      )
      .addColumn('provider', 'text', (column) => column.notNull())
      .addColumn('issuer', 'text', (column) => column.notNull())
      .addColumn('subject', 'text', (column) => column.notNull())
      .addColumn('label', 'text', (column) => column.notNull())
      .addColumn('created_at', 'timestamptz', (column) => column.notNull().defaultTo(sql`now()`))
      .addColumn('last_used_at', 'timestamptz', (column) => column.notNull().defaultTo(sql`now()`))
      .addUniqueConstraint('identities_subject', ['issuer', 'subject'])
      .execute();
    await db.schema.createIndex('identities_user').on('identities').column('user_id').execute();

    await db.schema
      .createTable('oauth_attempts')
      .addColumn('state_hash', 'text', (column) => column.primaryKey())
      .addColumn('browser_hash', 'text', (column) => column.notNull())
      .addColumn('provider', 'text', (column) => column.notNull())
      .addColumn('session_id', 'text', (column) =>
        column.references('sessions.id').onDelete('cascade'),
      )
      .addColumn('sealed', 'text', (column) => column.notNull())
      .addColumn('expires_at', 'timestamptz', (column) => column.notNull())
      .execute();
    await db.schema
      .createIndex('oauth_attempts_expiry')
      .on('oauth_attempts')
      .column('expires_at')
      .execute();
    await db.schema
      .createIndex('oauth_attempts_session')
      .on('oauth_attempts')
      .column('session_id')
      .execute();

    await db.schema
      .createTable('device_logins')
      .addColumn('device_code_hash', 'text', (column) => column.primaryKey())
      .addColumn('user_code_hash', 'text', (column) => column.notNull().unique())
      .addColumn('address', 'text')
      .addColumn('user_agent', 'text')
      .addColumn('user_id', 'text', (column) => column.references('users.id').onDelete('cascade'))
      .addColumn('state', 'text', (column) => column.notNull().defaultTo('pending'))
      .addColumn('polled_at', 'timestamptz')
      .addColumn('created_at', 'timestamptz', (column) => column.notNull().defaultTo(sql`now()`))
      .addColumn('expires_at', 'timestamptz', (column) => column.notNull())
      .execute();
    await db.schema
      .createIndex('device_logins_user')
      .on('device_logins')
      .column('user_id')
      .execute();
    await db.schema
      .createIndex('device_logins_expiry')
      .on('device_logins')
      .column('expires_at')
      .execute();

    await db.schema
      .createTable('mails')
      .addColumn('id', 'bigint', (column) => column.primaryKey().generatedAlwaysAsIdentity())
      .addColumn('recipient', 'text', (column) => column.notNull())
      .addColumn('kind', 'text', (column) => column.notNull())
      .addColumn('sealed', 'text')
      .addColumn('state', 'text', (column) => column.notNull().defaultTo('pending'))
      .addColumn('attempts', 'integer', (column) => column.notNull().defaultTo(0))
      .addColumn('next_attempt_at', 'timestamptz', (column) =>
        column.notNull().defaultTo(sql`now()`),
      )
      .addColumn('last_error', 'text')
      .addColumn('created_at', 'timestamptz', (column) => column.notNull().defaultTo(sql`now()`))
      .addColumn('finished_at', 'timestamptz')
      .execute();
    await sql`create index mails_due on mails (next_attempt_at) where state = 'pending'`.execute(
      db,
    );
    await sql`create index mails_finished on mails (finished_at) where state <> 'pending'`.execute(
      db,
    );
  },
};
