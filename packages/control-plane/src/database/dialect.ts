import { TorporError } from '@torpor/protocol';
import {
  type CompiledQuery,
  type DatabaseConnection,
  PostgresDialect,
  type PostgresDialectConfig,
  PostgresDriver,
} from 'kysely';
import pg from 'pg';

/** SQLSTATE: shut down, crashed, starting up, no connection left. Class 08: connection exceptions. */
const UNAVAILABLE = /^(57P0[123]|53300|08...)$/;

/** Errors of system calls on the socket, if no server has responded. */
const BROKEN = new Set(['ECONNREFUSED', 'ECONNRESET', 'ENOENT', 'EPIPE', 'ETIMEDOUT']);

/** Messages of pg, without a code, for a connection that is closed during or before the query. */
const CLOSED = /^(Connection terminated|Client (has encountered a connection error|was closed))/;

/**
 * A PostgreSQL dialect whose queries throw `database_unavailable` while the server does not respond,
 * and `not_found` for a row of a team that was deleted.
 */
export class ReportingDialect extends PostgresDialect {
  readonly #config: PostgresDialectConfig;

  constructor(config: PostgresDialectConfig) {
    super(config);
    this.#config = config;
  }

  override createDriver(): PostgresDriver {
    return new ReportingDriver(this.#config);
  }
}

class ReportingDriver extends PostgresDriver {
  readonly #reporting = new WeakSet<DatabaseConnection>();

  override async acquireConnection(
    ...options: Parameters<PostgresDriver['acquireConnection']>
  ): Promise<DatabaseConnection> {
    const connection = await reporting(super.acquireConnection(...options));
    if (!this.#reporting.has(connection)) {
      this.#reporting.add(connection);
      // Everything runs through it, the begin and end of a transaction too.
      const execute = connection.executeQuery.bind(connection);
      connection.executeQuery = <R>(query: CompiledQuery) =>
        reporting(execute<R>(query)).catch((reason: unknown) => {
          throw isOfDeletedTeam(query, reason) ? teamDeleted(reason) : reason;
        });
    }
    return connection;
  }
}

async function reporting<T>(query: Promise<T>): Promise<T> {
  try {
    return await query;
  } catch (reason) {
    if (!isUnavailable(reason)) throw reason;
    throw new TorporError('database_unavailable', 'The database is not responding.', {
      cause: reason,
    });
  }
}

/** SQLSTATE of a row that refers to one that does not exist. */
const FOREIGN_KEY_VIOLATION = '23503';

/** Whether a row could not be added because its team was deleted after the request was authenticated. */
function isOfDeletedTeam({ query }: CompiledQuery, reason: unknown): boolean {
  return (
    query.kind === 'InsertQueryNode' &&
    reason instanceof pg.DatabaseError &&
    reason.code === FOREIGN_KEY_VIOLATION &&
    reason.constraint?.endsWith('_team_id_fkey') === true
  );
}

function teamDeleted(cause: unknown): TorporError {
  return new TorporError('not_found', 'The team was deleted.', { cause });
}

function isUnavailable(reason: unknown): boolean {
  if (!(reason instanceof Error)) return false;
  const code = 'code' in reason ? String(reason.code) : '';
  if (reason instanceof pg.DatabaseError) return UNAVAILABLE.test(code);
  return BROKEN.has(code) || CLOSED.test(reason.message) || reason.message === ACQUIRE_TIMEOUT;
}

/** Of pg's pool, if no connection becomes free or is made in time. */
const ACQUIRE_TIMEOUT = 'timeout exceeded when trying to connect';
