import { TorporError } from '@torpor/protocol';
import { Kysely } from 'kysely';
import { Migrator } from 'kysely/migration';
import pg from 'pg';
import type { Logger } from 'pino';
import { ReportingDialect } from './dialect.ts';
import { MIGRATIONS } from './migrations/index.ts';
import type { Database } from './schema.ts';

/** Enough for the API of one process; the embedded server allows 40. */
const MAX_CONNECTIONS = 10;
const STATEMENT_TIMEOUT_MS = 30_000;

/**
 * Opens the database and brings its schema up to date. Several processes may do so
 * at once: the migrations run under an advisory lock. Throws `host_setup` if the
 * database cannot be reached, or was made by a newer version of Torpor.
 */
export async function openDatabase(
  connection: pg.ClientConfig,
  logger: Logger,
): Promise<Kysely<Database>> {
  const pool = new pg.Pool({
    ...connection,
    max: MAX_CONNECTIONS,
    idleTimeoutMillis: 30_000,
    connectionTimeoutMillis: 10_000,
    statement_timeout: STATEMENT_TIMEOUT_MS,
    application_name: 'torpor-control-plane',
  });
  // A broken connection is replaced, and the query on it fails. The pool reports errors of idle
  // connections only; the others emit them, which would crash the process without a listener.
  pool.on('connect', (client) =>
    client.on('error', (error) => logger.warn({ err: error }, 'Lost a database connection')),
  );
  pool.on('error', () => undefined);
  const db = new Kysely<Database>({ dialect: new ReportingDialect({ pool }) });
  try {
    await migrate(db);
    return db;
  } catch (error) {
    await db.destroy();
    throw error;
  }
}

async function migrate(db: Kysely<Database>): Promise<void> {
  const migrator = new Migrator({
    db,
    provider: { getMigrations: async () => MIGRATIONS },
    migrationTableName: 'torpor_migrations',
    migrationLockTableName: 'torpor_migrations_lock',
  });
  const { error, results } = await migrator.migrateToLatest();
  if (error === undefined) return;
  const failed = results?.find((result) => result.status === 'Error')?.migrationName;
  const reason = rootMessage(error);
  const step = failed === undefined ? '' : ` (step ${failed})`;
  throw new TorporError('host_setup', `The database cannot be prepared${step}: ${reason}`, {
    remedy:
      'Check that DATABASE_URL (or database_url in torpor.toml) names a database that can be reached and lets Torpor create tables, and that no newer version of Torpor has used it.',
    cause: error,
  });
}

/** The message of the server or the connection, if the error was converted. */
function rootMessage(error: unknown): string {
  if (error instanceof TorporError && error.cause !== undefined) return rootMessage(error.cause);
  return error instanceof Error ? error.message : String(error);
}
