/**
 * The private PostgreSQL of a data directory.
 *
 * It runs detached, so that it survives `kill -9` of our process; the next
 * start finds it by postmaster.pid and adopts it. It listens on a Unix socket
 * in a private directory only, and accepts one operating-system user (peer
 * authentication): there is no password that could leak. A session lock in the
 * database itself ensures that it has one owner at a time; the
 * server drops the lock with the connection, so a killed owner leaves none behind.
 * `fsync` and `synchronous_commit` are on: what was acknowledged survives a power failure.
 */
import type pg from 'pg';
import type { Logger } from 'pino';
import { findBinaries } from './binaries.ts';
import { createCluster } from './cluster.ts';
import { databaseAccount } from './database-account.ts';
import { openDatabaseLayout, requireReachable } from './layout.ts';
import { PostgresServer } from './server.ts';

export interface EmbeddedPostgres {
  readonly connection: pg.ClientConfig;
  /** The pid of the current postmaster. */
  pid(): number | undefined;
  /** Stops the server (fast shutdown). */
  close(): Promise<void>;
}

/** Starts, or finds, the private PostgreSQL of a data directory. Throws `host_setup`, or `conflict` if another process uses it. */
export async function startEmbeddedPostgres(options: {
  readonly dataDir: string;
  readonly logger: Logger;
}): Promise<EmbeddedPostgres> {
  const account = await databaseAccount();
  const layout = await openDatabaseLayout(options.dataDir, account);
  await requireReachable(layout.root, account);
  const binaries = await findBinaries(account, layout.root);
  await createCluster(layout, binaries, account);
  const server = new PostgresServer({ layout, binaries, account }, options.logger);
  try {
    await server.start();
  } catch (error) {
    await server.abandon();
    throw error;
  }
  return server;
}
