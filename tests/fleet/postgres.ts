import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { appendFile, chown, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { runCommand } from '@torpor/linux';
import { Client } from 'pg';

/** Where Debian's packages put the programs of each version. */
const VERSIONS = '/usr/lib/postgresql';
/** The account that they make. */
const ACCOUNT = 'postgres';
export const ROLE = 'torpor';
export const DATABASE_PORT = 5432;
const START_TIMEOUT_MS = 60_000;

export interface PostgresOptions {
  /** An address to listen on, and the network that may connect to it; only a socket if omitted. */
  readonly listen?: { readonly address: string; readonly network: string };
}

/** A cluster of Debian's PostgreSQL with a data directory of its own, which is removed with it. */
export class PostgresServer implements AsyncDisposable {
  /** The directory of its socket. */
  readonly socketDirectory: string;
  readonly #resources: AsyncDisposableStack;

  private constructor(socketDirectory: string, resources: AsyncDisposableStack) {
    this.socketDirectory = socketDirectory;
    this.#resources = resources;
  }

  static async start({ listen }: PostgresOptions = {}): Promise<PostgresServer> {
    await using resources = new AsyncDisposableStack();
    const account = await unprivilegedAccount();
    const programs = await programsDirectory();
    const root = await mkdtemp(join(tmpdir(), 'torpor-postgres-'));
    resources.defer(() => rm(root, { recursive: true, force: true }));
    await chown(root, account.uid, account.gid);
    const data = join(root, 'data');
    const as = ['--reuid', String(account.uid), '--regid', String(account.gid), '--clear-groups'];
    await runCommand('setpriv', [
      ...as,
      join(programs, 'initdb'),
      ...['-D', data, '-U', ROLE, '-A', 'trust', '-E', 'UTF8', '--locale=C.UTF-8', '--no-sync'],
    ]);
    if (listen !== undefined) {
      await appendFile(join(data, 'pg_hba.conf'), `host all all ${listen.network} trust\n`);
    }
    // Nothing here survives a power failure, so nothing waits for the disk.
    const settings = {
      listen_addresses: listen?.address ?? '',
      unix_socket_directories: root,
      max_connections: '100',
      fsync: 'off',
    };
    await writeFile(
      join(data, 'postgresql.auto.conf'),
      Object.entries(settings)
        .map(([name, value]) => `${name} = '${value}'\n`)
        .join(''),
    );
    const server = spawn(
      'setpriv',
      [...as, join(programs, 'postgres'), '-D', data, '-p', String(DATABASE_PORT)],
      { stdio: ['ignore', 'ignore', 'pipe'], cwd: '/' },
    );
    let log = '';
    server.stderr.on('data', (chunk) => {
      log = `${log}${chunk}`.slice(-10_000);
    });
    const exited = once(server, 'exit');
    resources.defer(async () => {
      // A fast shutdown: it ends the connections.
      server.kill('SIGINT');
      await exited;
    });
    await Promise.race([
      untilAccepting(root),
      exited.then(() => Promise.reject(new Error(`PostgreSQL exited:\n${log}`))),
    ]);
    return new PostgresServer(root, resources.move());
  }

  /** How clients on this machine connect. */
  get connection() {
    return { host: this.socketDirectory, port: DATABASE_PORT, user: ROLE, database: 'postgres' };
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#resources.disposeAsync();
  }
}

async function untilAccepting(host: string): Promise<void> {
  const deadline = Date.now() + START_TIMEOUT_MS;
  for (;;) {
    const client = new Client({ host, port: DATABASE_PORT, user: ROLE, database: 'postgres' });
    try {
      await client.connect();
      return;
    } catch (error) {
      if (Date.now() > deadline) throw error;
      await new Promise((resolve) => setTimeout(resolve, 50));
    } finally {
      await client.end().catch(() => undefined);
    }
  }
}

/** The newest version's programs. */
async function programsDirectory(): Promise<string> {
  const versions = await readdir(VERSIONS);
  const newest = versions
    .map(Number)
    .filter(Number.isFinite)
    .toSorted((a, b) => b - a)[0];
  if (newest === undefined) throw new Error(`There is no PostgreSQL in ${VERSIONS}.`);
  return join(VERSIONS, String(newest), 'bin');
}

/** PostgreSQL refuses to run as root. */
async function unprivilegedAccount(): Promise<{ uid: number; gid: number }> {
  const accounts = await readFile('/etc/passwd', 'utf8');
  const line = accounts.split('\n').find((entry) => entry.startsWith(`${ACCOUNT}:`));
  const [, , uid, gid] = line?.split(':').map(Number) ?? [];
  if (uid === undefined || gid === undefined) throw new Error(`There is no account ${ACCOUNT}.`);
  return { uid, gid };
}
