import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { newId, TorporError } from '@torpor/protocol';
import { type Kysely, sql, type Transaction } from 'kysely';
import type { Logger } from 'pino';
import { z } from 'zod';
import { writePrivateFile } from '../data-directory/private-file.ts';
import type { Database } from '../database/schema.ts';
import { PeriodicTask } from '../jobs/periodic-task.ts';
import type { HostConnection } from './connection.ts';
import { reportOfDescription } from './description.ts';
import { HostRepository } from './repository.ts';

/** The id of the host of a data directory from before there could be several. */
const FIRST_LOCAL_ID = 'local';
const FILE_NAME = 'host.json';
/** Serialises starts that share a database. */
const LOCAL_HOST_LOCK = '128077194588021';

const fileSchema = z.strictObject({ id: z.string(), instance: z.string() });
type HostFile = z.infer<typeof fileSchema>;

/**
 * The id of the host of a `torpor up`, and its row. Every data directory has its own: the first
 * one on a database is `local`. `host.json` has the id and a random `instance`, which tells
 * data directories apart that were the first one on databases of their own.
 */
export async function ensureLocalHost(
  db: Kysely<Database>,
  dataDir: string,
  teamId: string,
): Promise<string> {
  const path = join(dataDir, FILE_NAME);
  return db.transaction().execute(async (transaction) => {
    await sql`select pg_advisory_xact_lock(${sql.lit(LOCAL_HOST_LOCK)}::bigint)`.execute(
      transaction,
    );
    const known = await readHostFile(path);
    if (known !== undefined) {
      const owner = await instanceOf(transaction, known.id);
      if (owner === known.instance) return known.id;
      if (owner === undefined) return insertLocalHost(transaction, known, teamId);
    }
    const isFirst = (await instanceOf(transaction, FIRST_LOCAL_ID)) === undefined;
    const file = { id: isFirst ? FIRST_LOCAL_ID : newId('host'), instance: randomUUID() };
    // Before the commit: a row without its file would belong to no data directory.
    await writePrivateFile(path, `${JSON.stringify(file)}\n`);
    return insertLocalHost(transaction, file, teamId);
  });
}

/** Undefined if there is no host with this id; null if it is not that of a data directory. */
async function instanceOf(
  transaction: Transaction<Database>,
  id: string,
): Promise<string | null | undefined> {
  const row = await transaction
    .selectFrom('hosts')
    .select('instance')
    .where('id', '=', id)
    .executeTakeFirst();
  return row?.instance;
}

async function insertLocalHost(
  transaction: Transaction<Database>,
  { id, instance }: HostFile,
  teamId: string,
): Promise<string> {
  const name = hostname();
  const row = { id, kind: 'local' as const, name, audit_team_id: teamId, instance };
  await transaction
    .insertInto('hosts')
    .values({ ...row, state: 'online', last_heartbeat_at: new Date() })
    .execute();
  return id;
}

async function readHostFile(path: string): Promise<HostFile | undefined> {
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  });
  if (text === undefined) return undefined;
  try {
    return fileSchema.parse(JSON.parse(text));
  } catch (error) {
    throw new TorporError('host_setup', `${path} does not have the id of this host.`, {
      remedy:
        'Restore the file. Without it the host gets a new id, under which its sandboxes are not found.',
      cause: error,
    });
  }
}

interface HeartbeatParts {
  readonly db: Kysely<Database>;
  readonly host: HostConnection;
  readonly logger: Logger;
  readonly onEvents: () => void;
  readonly intervalMs: number;
}

/** The heartbeats of a local host, whose agent needs no enrolment. */
export function startLocalHeartbeat({
  db,
  host,
  logger,
  onEvents,
  intervalMs,
}: HeartbeatParts): AsyncDisposable {
  const hosts = new HostRepository(db);
  const failure = 'Could not record that this host is up';
  return new PeriodicTask({ intervalMs, logger, failure }, async () => {
    const report = reportOfDescription(await host.describe());
    const effect = await hosts.heartbeat(host.id, report);
    if (effect?.isUp) onEvents();
  });
}
