import { spawn } from 'node:child_process';
import { chown, lstat, open, readFile, rm, writeFile } from 'node:fs/promises';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import type { Account } from './account.ts';
import type { PostgresBinaries } from './binaries.ts';
import { ROLE } from './cluster.ts';
import { type DatabaseLayout, PORT } from './layout.ts';
import { readPostmasterFile } from './postmaster.ts';
import { databaseEnvironment } from './run-program.ts';

const MAX_LOG_BYTES = 4 * 1024 * 1024;
/** Lines that the server logs at every start and shutdown. Errors can have the level LOG, too. */
const ROUTINE_LINE =
  /\bLOG: +(?:starting |listening |database system |shutting down|checkpoint |received |redo )/;

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

/** How a server is launched: with which programs, under which account (ours, if omitted). */
export interface LaunchOptions {
  readonly layout: DatabaseLayout;
  readonly binaries: PostgresBinaries;
  readonly account: Account | undefined;
}

export interface LaunchedPostmaster {
  /** Undefined if the program could not be started. */
  readonly pid: number | undefined;
  /** How it exited, or why it could not be started; undefined while it runs. */
  exitStatus(): string | undefined;
  /** What the server has logged since this launch, without the routine lines. */
  complaints(): Promise<string>;
}

/** Launches a server, detached, with its output in the log file. It does not respond yet. */
export async function launchPostmaster(options: LaunchOptions): Promise<LaunchedPostmaster> {
  const { layout, binaries, account } = options;
  await writeAccessRules(layout, account);
  await removeStaleSocket(layout);
  const settings = { ...SETTINGS, unix_socket_directories: layout.socketDirectory };
  const args = ['-D', layout.data, '-p', String(PORT)];
  for (const [name, value] of Object.entries(settings)) args.push('-c', `${name}=${value}`);
  await using log = await open(layout.logFile, (await isLarge(layout.logFile)) ? 'w' : 'a', 0o600);
  const logStart = (await log.stat()).size;
  let status: string | undefined;
  const child = spawn(binaries.postgres, args, {
    cwd: '/',
    detached: true,
    env: databaseEnvironment(),
    stdio: ['ignore', log.fd, log.fd],
    ...(account === undefined ? {} : { uid: account.uid, gid: account.gid }),
  });
  child.on('error', (error) => {
    status = error.message;
  });
  child.on('exit', (code, signal) => {
    status = signal === null ? `exit status ${code}` : `killed by ${signal}`;
  });
  child.unref();
  return {
    pid: child.pid,
    exitStatus: () => status,
    complaints: () => lastComplaints(layout.logFile, logStart),
  };
}

/** Only our operating-system user may connect, as our role. */
async function writeAccessRules(
  { data }: DatabaseLayout,
  account: Account | undefined,
): Promise<void> {
  const files = {
    'pg_hba.conf': `local all ${ROLE} peer map=${ROLE}\n`,
    'pg_ident.conf': `${ROLE} "${userInfo().username}" ${ROLE}\n`,
  };
  for (const [name, content] of Object.entries(files)) {
    const path = join(data, name);
    await writeFile(path, content, { mode: 0o600 });
    if (account !== undefined) await chown(path, account.uid, account.gid);
  }
}

/**
 * A killed server leaves its socket and a lock file with its pid, which PostgreSQL
 * takes for a running server's if the pid has been reused, or is still a zombie's.
 */
async function removeStaleSocket({ data, socketDirectory }: DatabaseLayout): Promise<void> {
  // Another start may have launched a server since we looked: then the socket belongs to it.
  if ((await readPostmasterFile(data)) !== undefined) return;
  for (const name of [`.s.PGSQL.${PORT}`, `.s.PGSQL.${PORT}.lock`]) {
    await rm(join(socketDirectory, name), { force: true });
  }
}

async function isLarge(logFile: string): Promise<boolean> {
  const found = await lstat(logFile).catch(() => undefined);
  return found !== undefined && found.size > MAX_LOG_BYTES;
}

async function lastComplaints(logFile: string, start: number): Promise<string> {
  const log = await readFile(logFile).catch(() => Buffer.alloc(0));
  const lines = log.subarray(start).toString().trim().split('\n');
  const complaints = lines.filter((line) => !ROUTINE_LINE.test(line));
  return complaints.slice(-4).join('\n');
}
