import { type Kysely, sql } from 'kysely';
import type { Migration } from 'kysely/migration';

/** The team of the platform itself (auth/roles.ts). */
const PLATFORM_TEAM = 'tm00000000000000000000';

export const accounts: Migration = {
  async up(db: Kysely<unknown>): Promise<void> {
    await db.schema
      .createTable('users')
      .addColumn('id', 'text', (column) => column.primaryKey())
      // In lower case.
      .addColumn('email', 'text', (column) => column.notNull().unique())
      .addColumn('name', 'text', (column) => column.notNull())
      .addColumn('password_hash', 'text')
      .addColumn('is_admin', 'boolean', (column) => column.notNull().defaultTo(false))
      .addColumn('status', 'text', (column) => column.notNull().defaultTo('active'))
      .addColumn('created_at', 'timestamptz', (column) => column.notNull().defaultTo(sql`now()`))
      .addColumn('updated_at', 'timestamptz', (column) => column.notNull().defaultTo(sql`now()`))
      .execute();

    await db.schema
      .createTable('team_members')
      .addColumn('team_id', 'text', (column) =>
        column.notNull().references('teams.id').onDelete('cascade'),
      )
      .addColumn('user_id', 'text', (column) =>
        column.notNull().references('users.id').onDelete('cascade'),
      )
      .addColumn('role', 'text', (column) => column.notNull())
      .addColumn('created_at', 'timestamptz', (column) => column.notNull().defaultTo(sql`now()`))
      .addPrimaryKeyConstraint('team_members_pkey', ['team_id', 'user_id'])
      .execute();
    await sql`create unique index team_members_owner on team_members (team_id) where role = 'owner'`.execute(
      db,
    );
    await db.schema.createIndex('team_members_user').on('team_members').column('user_id').execute();

    await db.schema
      .createTable('sessions')
      .addColumn('id', 'text', (column) => column.primaryKey())
      .addColumn('token_hash', 'text', (column) => column.notNull().unique())
      .addColumn('user_id', 'text', (column) =>
        column.notNull().references('users.id').onDelete('cascade'),
      )
      .addColumn('team_id', 'text', (column) => column.references('teams.id').onDelete('set null'))
      .addColumn('address', 'text')
      .addColumn('user_agent', 'text')
      .addColumn('created_at', 'timestamptz', (column) => column.notNull().defaultTo(sql`now()`))
      .addColumn('last_used_at', 'timestamptz', (column) => column.notNull().defaultTo(sql`now()`))
      .addColumn('expires_at', 'timestamptz', (column) => column.notNull())
      .execute();
    await db.schema.createIndex('sessions_user').on('sessions').column('user_id').execute();
    await db.schema.createIndex('sessions_team').on('sessions').column('team_id').execute();
    await db.schema.createIndex('sessions_expiry').on('sessions').column('expires_at').execute();

    await db.schema
      .createTable('invitations')
      .addColumn('id', 'text', (column) => column.primaryKey())
      .addColumn('token_hash', 'text', (column) => column.notNull().unique())
      .addColumn('team_id', 'text', (column) =>
        column.notNull().references('teams.id').onDelete('cascade'),
      )
      .addColumn('role', 'text', (column) => column.notNull())
      .addColumn('email', 'text')
      .addColumn('created_by', 'text')
      .addColumn('user_id', 'text', (column) => column.references('users.id').onDelete('cascade'))
      .addColumn('created_at', 'timestamptz', (column) => column.notNull().defaultTo(sql`now()`))
      .addColumn('expires_at', 'timestamptz', (column) => column.notNull())
      .execute();
    await db.schema.createIndex('invitations_team').on('invitations').column('team_id').execute();
    await db.schema.createIndex('invitations_user').on('invitations').column('user_id').execute();

    await db.schema
      .alterTable('api_keys')
      .addColumn('user_id', 'text', (column) => column.references('users.id').onDelete('cascade'))
      .execute();
    await db.schema.createIndex('api_keys_user').on('api_keys').column('user_id').execute();

    // A user has one such link at most: a new one replaces the old one.
    await db.schema
      .createTable('password_links')
      .addColumn('user_id', 'text', (column) =>
        column.primaryKey().references('users.id').onDelete('cascade'),
      )
      .addColumn('token_hash', 'text', (column) => column.notNull().unique())
      .addColumn('expires_at', 'timestamptz', (column) => column.notNull())
      .execute();

    await db.schema
      .createTable('credential_attempts')
      .addColumn('key', 'text', (column) => column.primaryKey())
      .addColumn('attempts', 'integer', (column) => column.notNull())
      .addColumn('window_ends_at', 'timestamptz', (column) => column.notNull())
      .execute();
    await db.schema
      .createIndex('credential_attempts_expiry')
      .on('credential_attempts')
      .column('window_ends_at')
      .execute();

    await sql`
      insert into teams (id, name) values (${sql.lit(PLATFORM_TEAM)}, 'Platform')`.execute(db);
    await db.schema
      .alterTable('audit_logs')
      .addColumn('scope', 'text', (column) => column.notNull().defaultTo('team'))
      .execute();
    await sql`
      update audit_logs set scope = 'admin' where resource_type not in ('sandbox', 'snapshot')`.execute(
      db,
    );
    // Who could read all of the audit log still can, and operators can do what is new.
    await sql`
      update api_keys set scopes = scopes || '{audit.admin}'::text[]
      where 'audit.read' = any (scopes)`.execute(db);
    await sql`
      update api_keys set scopes = scopes || '{team.read,team.write,team.delete}'::text[]
      where 'platform' = any (scopes)`.execute(db);
  },
};
