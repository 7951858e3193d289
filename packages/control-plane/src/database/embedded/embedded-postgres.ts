/**
 * The private PostgreSQL of a data directory.
 *
 * It runs detached, so that `kill -9` of our process leaves it in peace; the next
 * start finds it by postmaster.pid and goes on with it. It listens on a Unix socket
 * in a private directory only, and lets in one operating-system user (peer
 * authentication): there is no password that could leak. A session lock in the
 * database itself makes sure that one process at a time calls it its own; the
 * server drops the lock with the connection, so a killed owner leaves none behind.
 * `fsync` and `synchronous_commit` are on: what was acknowledged survives a power cut.
 */
import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import {
  chmod,
  chown,
  lstat,
  mkdir,
  open,
  readdir,
  readFile,
  realpath,
  rename,
  rm,
  writeFile,
} from 'node:fs/promises';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { TorporError } from '@torpor/protocol';
import pg from 'pg';
import type { Logger } from 'pino';
import { type Account, databaseAccount } from './account.ts';
import { findBinaries, isErrno, type PostgresBinaries } from './binaries.ts';
import { isPostmasterOf, readPostmasterFile, stopPostmaster } from './postmaster.ts';
import { databaseEnvironment, requireProgram, runProgram } from './run-program.ts';

export interface EmbeddedPostgres {
  readonly connection: pg.ClientConfig;
  /** Of the postmaster that serves now. */
  pid(): number | undefined;
  /** Stops the server (fast shutdown). */
  close(): Promise<void>;
}

const ROLE = 'torpor';
const DATABASE = 'postgres';
const PORT = 5432;
const START_TIMEOUT_MS = 120_000;
const OWNER_LOCK_TIMEOUT_MS = 5_000;
/** Any number that nothing else locks: "torpor" in ASCII. */
const OWNER_LOCK = '128077194588018';
const MAX_LOG_BYTES = 4 * 1024 * 1024;
/** Lines of the server's log that every start and end has. What is wrong can be of level LOG, too. */
const ROUTINE_LINE =
  /\bLOG: +(?:starting |listening |database system |shutting down|checkpoint |received |redo )/;
/** sun_path of sockaddr_un(7) without its final NUL. */
const MAX_SOCKET_PATH_BYTES = 107;

/** Small on purpose: one host's sandboxes are thousands of rows at most. */
const SETTINGS = {
  listen_addresses: '',
  unix_socket_permissions: '0700',
  max_connections: '40',
  shared_buffers: '16MB',
  temp_buffers: '1MB',
  huge_pages: 'off',
  jit: 'off',
  io_method: 'sync',
  wal_level: 'minimal',
  max_wal_senders: '0',
  max_logical_replication_workers: '0',
  max_wal_size: '128MB',
  min_wal_size: '32MB',
  autovacuum_max_workers: '1',
  max_parallel_workers_per_gather: '0',
  fsync: 'on',
  synchronous_commit: 'on',
  full_page_writes: 'on',
  // Without ERROR and below: a statement in the log could hold a user's data.
  log_min_messages: 'log',
  log_min_error_statement: 'panic',
  log_checkpoints: 'off',
  timezone: 'UTC',
} as const;

/** Starts, or finds, the private PostgreSQL of a data directory. Throws `host_setup`, or `conflict` if another process uses it. */
export async function startEmbeddedPostgres(options: {
  readonly dataDir: string;
  readonly logger: Logger;
}): Promise<EmbeddedPostgres> {
  const account = await databaseAccount();
  const layout = await openDatabaseLayout(options.dataDir, account);
  await requireReachable(layout.root, account);
  const binaries = await findBinaries(account, layout.root);
  await initialise(layout, binaries, account);
  const server = new Server(layout, binaries, account, options.logger);
  try {
    await server.start();
  } catch (error) {
    await server.abandon();
    throw error;
  }
  return server;
}

interface DatabaseLayout {
  readonly root: string;
  readonly data: string;
  readonly socketDirectory: string;
  readonly logFile: string;
}

async function openDatabaseLayout(
  dataDir: string,
  account: Account | undefined,
): Promise<DatabaseLayout> {
  await mkdir(dataDir, { recursive: true, mode: 0o711 });
  const base = await realpath(dataDir);
  if (account !== undefined) {
    const { mode } = await lstat(base);
    if ((mode & 0o001) === 0) await chmod(base, (mode & 0o7777) | 0o011);
  }
  const root = join(base, 'db');
  await makeDirectory(root, 0o711, undefined);
  const preferred = join(root, 's');
  const fits = Buffer.byteLength(join(preferred, `.s.PGSQL.${PORT}.lock`)) <= MAX_SOCKET_PATH_BYTES;
  const tag = createHash('sha256').update(root).digest('hex').slice(0, 12);
  const socketDirectory = fits ? preferred : join('/tmp', `torpor-db-${tag}`);
  await makeDirectory(socketDirectory, 0o700, account);
  return { root, data: join(root, 'data'), socketDirectory, logFile: join(root, 'postgresql.log') };
}

async function makeDirectory(
  path: string,
  mode: number,
  owner: Account | undefined,
): Promise<void> {
  try {
    await mkdir(path, { mode });
  } catch (error) {
    if (!isErrno(error, 'EEXIST')) throw error;
    const found = await lstat(path);
    const trusted = [process.getuid?.(), owner?.uid];
    if (!found.isDirectory() || !trusted.includes(found.uid)) {
      throw new TorporError('host_setup', `${path} exists and is not ours.`, {
        remedy: `Look at ${path} and remove it.`,
      });
    }
  }
  await chmod(path, mode);
  if (owner !== undefined) await chown(path, owner.uid, owner.gid);
}

/** The account must be able to traverse every directory that leads to its data. */
async function requireReachable(root: string, account: Account | undefined): Promise<void> {
  if (account === undefined) return;
  const result = await runProgram('test', ['-x', root], { account });
  if (result.exitCode === 0) return;
  throw new TorporError('host_setup', `The account ${account.name} cannot reach ${root}.`, {
    remedy:
      'Choose a data directory (TORPOR_DATA_DIR) whose parents other users may traverse, for example /var/lib/torpor.',
  });
}

const STAGING_PREFIX = 'data.staging-';

/**
 * Creates the database cluster unless there is one. Of several starts at once, each
 * makes one of its own, and the first to be complete is everybody's.
 */
async function initialise(
  layout: DatabaseLayout,
  binaries: PostgresBinaries,
  account: Account | undefined,
): Promise<void> {
  if (await exists(join(layout.data, 'PG_VERSION'))) return;
  await removeStaleStagings(layout.root);
  const tag = randomBytes(4).toString('hex');
  const staging = join(layout.root, `${STAGING_PREFIX}${process.pid}-${tag}`);
  try {
    await makeDirectory(staging, 0o700, account);
    await requireProgram(
      binaries.initdb,
      [
        `--pgdata=${staging}`,
        `--username=${ROLE}`,
        '--auth=peer',
        '--encoding=UTF8',
        '--locale-provider=builtin',
        '--builtin-locale=C.UTF-8',
        '--locale=C',
        '--no-instructions',
      ],
      `Creating the database in ${layout.data}`,
      {
        account,
        remedy: 'Look at the message; a full disk or missing rights are the usual causes.',
      },
    );
    await rename(staging, layout.data);
  } catch (error) {
    if (!isErrno(error, 'ENOTEMPTY') && !isErrno(error, 'EEXIST')) throw error;
  } finally {
    await rm(staging, { recursive: true, force: true });
  }
  await syncDirectory(layout.root);
}

/** What processes left that were killed while they made the database. */
async function removeStaleStagings(root: string): Promise<void> {
  for (const name of await readdir(root)) {
    if (!name.startsWith(STAGING_PREFIX)) continue;
    const maker = Number.parseInt(name.slice(STAGING_PREFIX.length), 10);
    if (!isAlive(maker)) await rm(join(root, name), { recursive: true, force: true });
  }
}

class Server implements EmbeddedPostgres {
  readonly connection: pg.ClientConfig;
  readonly #layout: DatabaseLayout;
  readonly #binaries: PostgresBinaries;
  readonly #account: Account | undefined;
  readonly #logger: Logger;
  readonly #closing = new AbortController();
  #pid: number | undefined;
  #startedHere = false;
  /** Where the last start begins in the log. */
  #logStart = 0;
  #owner: pg.Client | undefined;
  #recovery: Promise<void> = Promise.resolve();

  constructor(
    layout: DatabaseLayout,
    binaries: PostgresBinaries,
    account: Account | undefined,
    logger: Logger,
  ) {
    this.#layout = layout;
    this.#binaries = binaries;
    this.#account = account;
    this.#logger = logger;
    this.connection = {
      host: layout.socketDirectory,
      port: PORT,
      user: ROLE,
      database: DATABASE,
    };
  }

  pid(): number | undefined {
    return this.#pid;
  }

  async start(): Promise<void> {
    this.#pid = (await this.#adopt()) ?? (await this.#launch());
    this.#owner = await this.#takeOwnership();
  }

  /** After a failed start: stops the server only if it was started here. */
  async abandon(): Promise<void> {
    this.#closing.abort();
    await this.#owner?.end().catch(() => undefined);
    if (this.#startedHere && this.#pid !== undefined) {
      await stopPostmaster(this.#pid, this.#layout.data);
    }
  }

  async close(): Promise<void> {
    if (this.#closing.signal.aborted) return;
    this.#closing.abort();
    await this.#recovery;
    await this.#owner?.end().catch(() => undefined);
    const running = await readPostmasterFile(this.#layout.data);
    if (running !== undefined) await stopPostmaster(running.pid, this.#layout.data);
    if (!this.#layout.socketDirectory.startsWith(this.#layout.root)) {
      await rm(this.#layout.socketDirectory, { recursive: true, force: true });
    }
  }

  /** The pid of a server that an earlier process left running here, once it answers. */
  async #adopt(): Promise<number | undefined> {
    const found = await readPostmasterFile(this.#layout.data);
    if (found === undefined) return undefined;
    if (!(await isPostmasterOf(found.pid, this.#layout.data))) {
      // The pid may belong to somebody else by now, which PostgreSQL would take for a running server.
      await rm(join(this.#layout.data, 'postmaster.pid'), { force: true });
      return undefined;
    }
    if (found.socketDirectory === this.#layout.socketDirectory || found.socketDirectory === '') {
      try {
        await this.#waitUntilItAnswers(found.pid);
        this.#logger.info({ pid: found.pid }, 'Found the database server running');
        return found.pid;
      } catch (error) {
        this.#logger.warn(
          { pid: found.pid, err: error },
          'The running database server does not answer',
        );
      }
    }
    await stopPostmaster(found.pid, this.#layout.data);
    return undefined;
  }

  async #launch(): Promise<number> {
    await this.#writeAccessRules();
    await this.#removeStaleSocket();
    const settings = { ...SETTINGS, unix_socket_directories: this.#layout.socketDirectory };
    const args = ['-D', this.#layout.data, '-p', String(PORT)];
    for (const [name, value] of Object.entries(settings)) args.push('-c', `${name}=${value}`);
    const log = await open(this.#layout.logFile, (await this.#logIsLarge()) ? 'w' : 'a', 0o600);
    this.#logStart = (await log.stat()).size;
    let exitStatus: string | undefined;
    try {
      const child = spawn(this.#binaries.postgres, args, {
        cwd: '/',
        detached: true,
        env: databaseEnvironment(),
        stdio: ['ignore', log.fd, log.fd],
        ...(this.#account === undefined ? {} : { uid: this.#account.uid, gid: this.#account.gid }),
      });
      child.on('error', (error) => {
        exitStatus = error.message;
      });
      child.on('exit', (code, signal) => {
        exitStatus = signal === null ? `exit status ${code}` : `ended by ${signal}`;
      });
      child.unref();
      if (child.pid !== undefined) {
        this.#pid = child.pid;
        this.#startedHere = true;
      }
      await this.#waitUntilItAnswers(child.pid, () => exitStatus);
      const running = await readPostmasterFile(this.#layout.data);
      const serving = running?.pid ?? child.pid ?? 0;
      // If another start won, its server is not ours to stop.
      this.#startedHere = serving === child.pid;
      return serving;
    } finally {
      await log.close();
    }
  }

  /**
   * A killed server leaves its socket and a lock file with its pid, which PostgreSQL
   * takes for a running server's if the pid is in use again, or still a zombie's.
   */
  async #removeStaleSocket(): Promise<void> {
    // Another start may have launched one since we looked: then the socket is that one's.
    if ((await readPostmasterFile(this.#layout.data)) !== undefined) return;
    for (const name of [`.s.PGSQL.${PORT}`, `.s.PGSQL.${PORT}.lock`]) {
      await rm(join(this.#layout.socketDirectory, name), { force: true });
    }
  }

  /** One operating-system user, ours, may connect as our role. */
  async #writeAccessRules(): Promise<void> {
    const user = userInfo().username;
    await this.#writeDataFile('pg_hba.conf', `local all ${ROLE} peer map=${ROLE}\n`);
    await this.#writeDataFile('pg_ident.conf', `${ROLE} "${user}" ${ROLE}\n`);
  }

  async #writeDataFile(name: string, content: string): Promise<void> {
    const path = join(this.#layout.data, name);
    await writeFile(path, content, { mode: 0o600 });
    if (this.#account !== undefined) await chown(path, this.#account.uid, this.#account.gid);
  }

  async #logIsLarge(): Promise<boolean> {
    const found = await lstat(this.#layout.logFile).catch(() => undefined);
    return found !== undefined && found.size > MAX_LOG_BYTES;
  }

  async #waitUntilItAnswers(
    pid: number | undefined,
    exitStatus: () => string | undefined = () => undefined,
  ): Promise<void> {
    const deadline = Date.now() + START_TIMEOUT_MS;
    let reason: unknown;
    while (Date.now() < deadline && !this.#closing.signal.aborted) {
      const client = new pg.Client({ ...this.connection, connectionTimeoutMillis: 5_000 });
      client.on('error', () => undefined);
      try {
        await client.connect();
        await client.query('select 1');
        return;
      } catch (error) {
        reason = error;
      } finally {
        await client.end().catch(() => undefined);
      }
      const status = exitStatus();
      // A second process that lost the race to start the server meets the winner's.
      if (status !== undefined && (await readPostmasterFile(this.#layout.data)) === undefined) {
        throw await this.#startFailure(status, reason);
      }
      if (pid !== undefined && status === undefined && !isAlive(pid)) {
        throw await this.#startFailure('it ended', reason);
      }
      await delay(20);
    }
    throw await this.#startFailure(`no answer within ${START_TIMEOUT_MS / 1000} s`, reason);
  }

  async #startFailure(what: string, cause: unknown): Promise<TorporError> {
    const log = await readFile(this.#layout.logFile).catch(() => Buffer.alloc(0));
    const lines = log.subarray(this.#logStart).toString().trim().split('\n');
    const tail = lines
      .filter((line) => !ROUTINE_LINE.test(line))
      .slice(-4)
      .join('\n');
    return new TorporError(
      'host_setup',
      `The embedded PostgreSQL does not start (${what}): ${tail}`,
      {
        remedy: `Read ${this.#layout.logFile}, or set DATABASE_URL to a PostgreSQL of your own.`,
        cause,
      },
    );
  }

  /** Takes the session lock that one owner at a time can have. A killed owner's lock is gone as soon as the server notices. */
  async #takeOwnership(): Promise<pg.Client> {
    const client = new pg.Client({ ...this.connection, connectionTimeoutMillis: 5_000 });
    client.on('error', () => undefined);
    await client.connect();
    const deadline = Date.now() + OWNER_LOCK_TIMEOUT_MS;
    for (;;) {
      const { rows } = await client.query<{ held: boolean }>(
        `select pg_try_advisory_lock(${OWNER_LOCK}) as held`,
      );
      if (rows[0]?.held === true) break;
      if (Date.now() > deadline) {
        await client.end();
        throw new TorporError('conflict', 'Another control plane uses this data directory.', {
          remedy: `Stop it first (its pid is in ${join(this.#layout.root, '..', 'run', 'api.json')}), or choose another TORPOR_DATA_DIR.`,
        });
      }
      await delay(50);
    }
    client.on('end', () => {
      if (!this.#closing.signal.aborted) this.#recovery = this.#recover();
    });
    return client;
  }

  /** The owner's connection is lost: the server crashed or restarts. Brings it back, however often that takes. */
  async #recover(): Promise<void> {
    this.#logger.error('The database server is gone; starting it again');
    for (let attempt = 1; !this.#closing.signal.aborted; attempt++) {
      try {
        await this.start();
        this.#logger.info({ pid: this.#pid }, 'The database server is back');
        return;
      } catch (error) {
        this.#logger.error({ err: error, attempt }, 'The database server does not come back');
        await delay(Math.min(attempt, 10) * 500, undefined, {
          signal: this.#closing.signal,
        }).catch(() => undefined);
      }
    }
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return isErrno(error, 'EPERM');
  }
}

async function exists(path: string): Promise<boolean> {
  return (await lstat(path).catch(() => undefined)) !== undefined;
}

async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}
