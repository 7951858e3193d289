import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { TorporError } from '@torpor/protocol';
import pg from 'pg';
import type { Logger } from 'pino';
import { ROLE } from './cluster.ts';
import { type LaunchedPostmaster, type LaunchOptions, launchPostmaster } from './launch.ts';
import { type DatabaseLayout, PORT } from './layout.ts';
import { takeOwnerLock } from './owner-lock.ts';
import { isPostmasterOf, readPostmasterFile, stopPostmaster } from './postmaster.ts';

const DATABASE = 'postgres';
const START_TIMEOUT_MS = 120_000;

/** The server of a data directory, owned by this process and restarted whenever it exits. */
export class PostgresServer {
  readonly connection: pg.ClientConfig;
  readonly #options: LaunchOptions;
  readonly #layout: DatabaseLayout;
  readonly #logger: Logger;
  readonly #closing = new AbortController();
  #pid: number | undefined;
  #startedHere = false;
  #owner: pg.Client | undefined;
  #recovery: Promise<void> = Promise.resolve();

  constructor(options: LaunchOptions, logger: Logger) {
    this.#options = options;
    this.#layout = options.layout;
    this.#logger = logger;
    this.connection = {
      host: options.layout.socketDirectory,
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
    const pidFile = join(this.#layout.root, '..', 'run', 'api.json');
    const owner = await takeOwnerLock(this.connection, pidFile).catch((error: unknown) => {
      // Another process has taken ownership of the server that we launched, and uses it.
      if (TorporError.from(error).code === 'conflict') this.#startedHere = false;
      throw error;
    });
    owner.on('end', () => {
      if (!this.#closing.signal.aborted) this.#recovery = this.#recover();
    });
    this.#owner = owner;
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

  /** The pid of a server that an earlier process left running here, once it responds. */
  async #adopt(): Promise<number | undefined> {
    const { data, socketDirectory } = this.#layout;
    const found = await readPostmasterFile(data);
    if (found === undefined) return undefined;
    const { pid } = found;
    if (!(await isPostmasterOf(pid, data))) {
      await this.#removePidFile(pid);
      return undefined;
    }
    if (found.socketDirectory === socketDirectory || found.socketDirectory === '') {
      try {
        await this.#waitUntilItResponds(async () =>
          (await isPostmasterOf(pid, data)) ? undefined : 'it exited',
        );
        this.#logger.info({ pid }, 'Database server adopted');
        return pid;
      } catch (error) {
        this.#logger.warn({ pid, err: error }, 'Running database server did not respond');
      }
    }
    await stopPostmaster(pid, data);
    await this.#removePidFile(pid);
    return undefined;
  }

  /**
   * Removes the pid file of a killed server. Its pid may have been reused since, or be a
   * zombie's, which PostgreSQL would take for a running server.
   */
  async #removePidFile(pid: number): Promise<void> {
    const { data } = this.#layout;
    if ((await readPostmasterFile(data))?.pid !== pid) return;
    await rm(join(data, 'postmaster.pid'), { force: true });
  }

  async #launch(): Promise<number> {
    const launched = await launchPostmaster(this.#options);
    const { pid } = launched;
    if (pid !== undefined) {
      this.#pid = pid;
      this.#startedHere = true;
    }
    await this.#waitUntilItResponds(async () => {
      const status = launched.exitStatus();
      // If another start won the race to launch the server, its server responds.
      return status === undefined || (await this.#isServed()) ? undefined : status;
    }, launched);
    const running = await readPostmasterFile(this.#layout.data);
    const serving = running?.pid ?? pid ?? 0;
    // If another start won, its server is not ours to stop.
    this.#startedHere = serving === pid;
    return serving;
  }

  async #isServed(): Promise<boolean> {
    const { data } = this.#layout;
    const found = await readPostmasterFile(data);
    return found !== undefined && (await isPostmasterOf(found.pid, data));
  }

  /** `exitStatus` says how the server that is waited for exited, if it has. Throws `host_setup`. */
  async #waitUntilItResponds(
    exitStatus: () => Promise<string | undefined>,
    launched?: LaunchedPostmaster,
  ): Promise<void> {
    const deadline = Date.now() + START_TIMEOUT_MS;
    let cause: unknown;
    while (Date.now() < deadline && !this.#closing.signal.aborted) {
      cause = await this.#failureToConnect();
      if (cause === undefined) return;
      const status = await exitStatus();
      if (status !== undefined) throw await this.#startFailure(status, cause, launched);
      await delay(20);
    }
    throw await this.#startFailure(
      `no response within ${START_TIMEOUT_MS / 1000} s`,
      cause,
      launched,
    );
  }

  /** Why the server does not respond; undefined if it does. */
  async #failureToConnect(): Promise<unknown> {
    const client = new pg.Client({ ...this.connection, connectionTimeoutMillis: 5_000 });
    client.on('error', () => undefined);
    try {
      await client.connect();
      await client.query('select 1');
      return undefined;
    } catch (error) {
      return error;
    } finally {
      await client.end().catch(() => undefined);
    }
  }

  async #startFailure(
    what: string,
    cause: unknown,
    launched: LaunchedPostmaster | undefined,
  ): Promise<TorporError> {
    const complaints = (await launched?.complaints()) ?? '';
    return new TorporError(
      'host_setup',
      `The embedded PostgreSQL did not start (${what}): ${complaints}`,
      {
        remedy: `Read ${this.#layout.logFile}, or set DATABASE_URL to a PostgreSQL of your own.`,
        cause,
      },
    );
  }

  /** The owner's connection is lost: the server crashed or restarts. Retries until it runs again. */
  async #recover(): Promise<void> {
    this.#logger.error('Database server exited; starting it again');
    for (let attempt = 1; !this.#closing.signal.aborted; attempt++) {
      try {
        await this.start();
        this.#logger.info({ pid: this.#pid }, 'Database server restarted');
        return;
      } catch (error) {
        this.#logger.error(
          { err: error, attempt },
          'Could not restart the database server; will retry',
        );
        await delay(Math.min(attempt, 10) * 500, undefined, {
          signal: this.#closing.signal,
        }).catch(() => undefined);
      }
    }
  }
}
