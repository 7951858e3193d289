import { Fleet, recordingLogger } from '@torpor/testkit/control-plane';
import { Kysely, PostgresDialect, sql } from 'kysely';
import { type Migration, Migrator } from 'kysely/migration';
import pg from 'pg';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { openDatabase } from '../database.ts';
import { MIGRATIONS } from './index.ts';

/** The last one of the version before. */
const PREVIOUS = '0004-fences';

let fleet: Fleet;
let db: Kysely<unknown>;
beforeEach(async () => {
  fleet = await Fleet.open();
  const pool = new pg.Pool(fleet.connection);
  // Closing a pool does not wait for its sockets: the server may end them first, when it stops.
  pool.on('connect', (client) => client.on('error', () => undefined));
  db = new Kysely({ dialect: new PostgresDialect({ pool }) });
});
afterEach(async () => {
  await db.destroy();
  await fleet[Symbol.asyncDispose]();
});

function migrator(migrations: Record<string, Migration>): Migrator {
  return new Migrator({
    db,
    provider: { getMigrations: async () => migrations },
    migrationTableName: 'torpor_migrations',
    migrationLockTableName: 'torpor_migrations_lock',
  });
}

/** What a control plane of the version before leaves: two teams, sandboxes in every kind of state, a snapshot, events. */
async function leavePreviousVersion(): Promise<void> {
  const { error } = await migrator(MIGRATIONS).migrateTo(PREVIOUS);
  expect(error).toBeUndefined();
  const statements = [
    `insert into teams (id, name, created_at) values
      ('tmfirst', 'Default', '2026-01-01'), ('tmsecond', 'Others', '2026-02-01')`,
    `insert into api_keys (id, team_id, name, key_hash, key_prefix) values
      ('keyfirst', 'tmfirst', 'local', 'a', 'tpr_a'), ('keysecond', 'tmsecond', 'k', 'b', 'tpr_b')`,
    ...['running', 'paused', 'error', 'missing', 'creating', 'stopped'].map(
      (state) => `insert into sandboxes (id, team_id, host_id, template, state, vcpus, memory_mb,
        disk_size_mb, timeout_sec, allow_internet) values
        ('sb${state}', 'tmfirst', 'local', 'base', '${state}', 2, 512, 1024, 0, true)`,
    ),
    `insert into templates (id, team_id, name, type, state, host_id, vcpus, memory_mb, size_bytes)
      values ('tpl1', 'tmfirst', 'warm', 'snapshot', 'ready', 'local', 1, 512, 5000000)`,
    `insert into outbox (kind, resource, team_id, actor_type, status, delivered_at) values
      ('sandbox.create', 'sbold', 'tmfirst', 'system', 'success', now()),
      ('sandbox.create', 'sbrunning', 'tmfirst', 'system', 'success', null)`,
    `insert into audit_logs (id, team_id, actor_type, resource_type, resource_id, action, status,
      created_at) values ('log1', 'tmfirst', 'system', 'sandbox', 'sbold', 'create', 'success',
      '2026-01-01 00:00:00.123456Z')`,
  ];
  for (const statement of statements) await fleet.database.query(statement);
}

async function rows(query: string): Promise<unknown[]> {
  return (await fleet.database.query(query)).rows;
}

test('a database with data of the version before becomes one of this version', async () => {
  await leavePreviousVersion();
  const opened = await openDatabase(fleet.connection, recordingLogger().logger);
  await opened.destroy();

  const member = ['sandboxes.read', 'sandboxes.write', 'sandboxes.exec'];
  expect(await rows('select id, scopes from api_keys order by id')).toEqual([
    {
      id: 'keyfirst',
      scopes: expect.arrayContaining([...member, 'platform', 'team.write', 'audit.admin']),
    },
    { id: 'keysecond', scopes: expect.arrayContaining(member) },
  ]);
  const [, second] = (await rows('select scopes from api_keys order by id')) as {
    scopes: string[];
  }[];
  expect(second?.scopes).not.toContain('platform');
  expect(
    await rows(`select resource, vcpus, memory_mb, disk_mb from usage_intervals order by resource`),
  ).toEqual([
    { resource: 'sberror', vcpus: 0, memory_mb: 0, disk_mb: 1024 },
    { resource: 'sbmissing', vcpus: 2, memory_mb: 512, disk_mb: 1024 },
    { resource: 'sbpaused', vcpus: 0, memory_mb: 0, disk_mb: 1024 },
    { resource: 'sbrunning', vcpus: 2, memory_mb: 512, disk_mb: 1024 },
    { resource: 'warm', vcpus: 0, memory_mb: 0, disk_mb: 5 },
  ]);
  expect(await rows('select count(*)::integer as n from sandboxes')).toEqual([{ n: 6 }]);
  expect(await rows('select id, actor_name, scope from audit_logs')).toEqual([
    { id: 'log1', actor_name: null, scope: 'team' },
  ]);
  expect(await rows('select name from teams order by created_at')).toEqual([
    { name: 'Default' },
    { name: 'Others' },
    { name: 'Platform' },
  ]);

  // What the old version had not delivered is delivered, and nothing twice.
  await fleet.join();
  const delivered = () => fleet.count('outbox where delivered_at is not null and position = 1');
  await expect.poll(delivered).toBe(1);
  expect(await fleet.count("outbox where resource = 'sbold' and position is not null")).toBe(0);
});

test('a migration that fails leaves the version before as it was', async () => {
  await leavePreviousVersion();
  const columns = () =>
    rows(`select table_name, column_name, data_type from information_schema.columns
      where table_schema = 'public' order by 1, 2`);
  const before = await columns();
  const failing: Migration = {
    async up(transaction) {
      await sql`create table half_made (id text)`.execute(transaction);
      await sql`select 1 / 0`.execute(transaction);
    },
  };
  const { error } = await migrator({ ...MIGRATIONS, '9999-failing': failing }).migrateToLatest();
  expect(String(error)).toContain('division by zero');
  expect(await columns()).toEqual(before);
  const { results } = await migrator(MIGRATIONS).migrateToLatest();
  expect(results?.every(({ status }) => status === 'Success')).toBe(true);
});

test('a database of a newer version is refused with what to do', async () => {
  const newer: Migration = { up: async () => undefined };
  await migrator({ ...MIGRATIONS, '9998-newer': newer }).migrateToLatest();
  await expect(openDatabase(fleet.connection, recordingLogger().logger)).rejects.toMatchObject({
    code: 'host_setup',
    remedy: expect.stringContaining('newer version'),
  });
});
