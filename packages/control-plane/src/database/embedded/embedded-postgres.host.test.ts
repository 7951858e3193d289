import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { EMBEDDED_OWNER, until } from '@torpor/testkit/control-plane';
import { Client } from 'pg';
import { pino } from 'pino';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { databaseAccount } from './database-account.ts';
import { type EmbeddedPostgres, startEmbeddedPostgres } from './embedded-postgres.ts';
import { isPostmasterOf, readPostmasterFile, stopPostmaster } from './postmaster.ts';

const logger = pino({ level: 'silent' });

let dataDir: string;
let children: ChildProcess[];
let servers: EmbeddedPostgres[];

beforeEach(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'torpor-db-test-'));
  children = [];
  servers = [];
});

afterEach(async () => {
  for (const child of children) child.kill('SIGKILL');
  for (const server of servers) await server.close();
  const left = await readPostmasterFile(data());
  if (left !== undefined) await stopPostmaster(left.pid, data());
  await rm(dataDir, { recursive: true, force: true });
});

const data = () => join(dataDir, 'db', 'data');

async function start(): Promise<EmbeddedPostgres> {
  const server = await startEmbeddedPostgres({ dataDir, logger });
  servers.push(server);
  return server;
}

async function query<T extends object>(server: EmbeddedPostgres, text: string): Promise<T[]> {
  const client = new Client(server.connection);
  client.on('error', () => undefined);
  await client.connect();
  try {
    return (await client.query<T>(text)).rows;
  } finally {
    await client.end();
  }
}

/** Starts a process that owns the database and writes; resolves with the last acknowledged number when it is killed. */
async function writeAndKill(): Promise<number> {
  const child = spawn(process.execPath, [EMBEDDED_OWNER, dataDir], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  children.push(child);
  let acknowledged = 0;
  const lines = createInterface({ input: child.stdout });
  lines.on('line', (line) => {
    acknowledged = Number(line);
  });
  await until(() => acknowledged >= 20, 60_000);
  child.kill('SIGKILL');
  await once(child, 'close');
  return acknowledged;
}

/** How many sockets of unix(7) are bound to a path, connections that were not accepted yet included. */
async function socketsAt(path: string): Promise<number> {
  const table = await readFile('/proc/net/unix', 'utf8');
  return table.split('\n').filter((line) => line.endsWith(` ${path}`)).length;
}

async function highest(server: EmbeddedPostgres): Promise<{ max: number; count: number }> {
  const [row] = await query<{ max: number; count: number }>(
    server,
    'select max(n), count(*)::int as count from written',
  );
  return row ?? { max: 0, count: 0 };
}

test('the server outlives a killed owner, and the next owner adopts it', async () => {
  const acknowledged = await writeAndKill();
  const left = await readPostmasterFile(data());
  expect(await isPostmasterOf(left?.pid ?? 0, data())).toBe(true);
  const server = await start();
  expect(server.pid()).toBe(left?.pid);
  const found = await highest(server);
  expect(found.max).toBeGreaterThanOrEqual(acknowledged);
  expect(found.count).toBe(found.max);
});

test('acknowledged writes survive when owner and server are both killed', async () => {
  const acknowledged = await writeAndKill();
  const left = await readPostmasterFile(data());
  process.kill(left?.pid ?? 0, 'SIGKILL');
  await until(async () => !(await isPostmasterOf(left?.pid ?? 0, data())));
  const server = await start();
  expect(server.pid()).not.toBe(left?.pid);
  const found = await highest(server);
  expect(found.max).toBeGreaterThanOrEqual(acknowledged);
  expect(found.count).toBe(found.max);
});

test('a server that hangs and is killed while a start waits for it is replaced at once', async () => {
  await writeAndKill();
  const left = (await readPostmasterFile(data()))?.pid ?? 0;
  process.kill(left, 'SIGSTOP');
  const starting = start();
  // The listening socket, and the connection of the start, which waits for a response.
  await until(async () => (await socketsAt(join(dataDir, 'db', 's', '.s.PGSQL.5432'))) > 1);
  process.kill(left, 'SIGKILL');
  const server = await starting;
  expect(server.pid()).not.toBe(left);
  expect((await highest(server)).max).toBeGreaterThanOrEqual(20);
});

test('a server that exits while it is owned is restarted', async () => {
  const server = await start();
  await query(server, 'create table kept as select 1 as one');
  const first = server.pid() ?? 0;
  process.kill(first, 'SIGKILL');
  await until(() => server.pid() !== first && server.pid() !== undefined, 30_000);
  await until(
    () =>
      query(server, 'select one from kept').then(
        (rows) => rows.length === 1,
        () => false,
      ),
    30_000,
  );
});

test('a second owner is refused, and the first is not disturbed', async () => {
  const server = await start();
  await expect(startEmbeddedPostgres({ dataDir, logger })).rejects.toMatchObject({
    code: 'conflict',
    remedy: expect.stringContaining('api.json'),
  });
  expect(await query(server, 'select 1 as one')).toEqual([{ one: 1 }]);
});

test('the pid file of a dead server, whose pid another process has now, is no obstacle', async () => {
  const server = await start();
  await server.close();
  const sleeper = spawn('sleep', ['60'], { stdio: 'ignore' });
  children.push(sleeper);
  await writeFile(join(data(), 'postmaster.pid'), `${sleeper.pid}\n${data()}\n0\n5432\n\n\n\n\n`);
  const next = await start();
  expect(next.pid()).not.toBe(sleeper.pid);
  expect(await query(next, 'select 1 as one')).toEqual([{ one: 1 }]);
  expect(sleeper.exitCode).toBeNull();
});

test('stops with its owner, and listens on a private Unix socket only', async () => {
  const server = await start();
  const pid = server.pid() ?? 0;
  const account = await databaseAccount();
  const directory = String(server.connection.host);
  const found = await stat(directory);
  expect(found.mode & 0o777).toBe(0o700);
  expect(found.uid).toBe(account?.uid ?? process.getuid?.());
  expect(await query(server, 'show listen_addresses')).toEqual([{ listen_addresses: '' }]);
  expect(await query(server, 'show fsync')).toEqual([{ fsync: 'on' }]);
  await server.close();
  expect(await isPostmasterOf(pid, data())).toBe(false);
  expect(await readPostmasterFile(data())).toBeUndefined();
});

test('the path of a data directory may contain characters that are special to a shell', async () => {
  await chmod(dataDir, 0o711);
  const odd = join(dataDir, `it's "a" $(touch owned) \`b\``);
  const server = await startEmbeddedPostgres({ dataDir: odd, logger });
  servers.push(server);
  expect(await query(server, 'select 1 as one')).toEqual([{ one: 1 }]);
});

test('a data directory whose path is too long for a socket works too', async () => {
  await chmod(dataDir, 0o711);
  const long = join(dataDir, 'd'.repeat(120));
  const server = await startEmbeddedPostgres({ dataDir: long, logger });
  servers.push(server);
  expect(await query(server, 'select 1 as one')).toEqual([{ one: 1 }]);
  const socketDirectory = String(server.connection.host);
  await server.close();
  await expect(stat(socketDirectory)).rejects.toThrow();
});

test.runIf(process.getuid?.() === 0)(
  'a data directory that the account of the database cannot reach is refused with a remedy',
  async () => {
    const hidden = join(dataDir, 'hidden');
    await expect(startEmbeddedPostgres({ dataDir: hidden, logger })).rejects.toMatchObject({
      code: 'host_setup',
      remedy: expect.stringContaining('TORPOR_DATA_DIR'),
    });
  },
);

test('a server that cannot start says why', async () => {
  const server = await start();
  await server.close();
  await writeFile(join(data(), 'postgresql.auto.conf'), 'nonsense = 1\n');
  await expect(startEmbeddedPostgres({ dataDir, logger })).rejects.toMatchObject({
    code: 'host_setup',
    message: expect.stringContaining('nonsense'),
    remedy: expect.stringContaining('DATABASE_URL'),
  });
  // Neither routine lines nor errors of an earlier start.
  await writeFile(join(data(), 'postgresql.auto.conf'), "shared_preload_libraries = 'absent'\n");
  await expect(startEmbeddedPostgres({ dataDir, logger })).rejects.toMatchObject({
    message: expect.stringMatching(/^(?!.*nonsense)(?!.*database system is shut down).*absent/s),
  });
  const log = await readFile(join(dataDir, 'db', 'postgresql.log'), 'utf8');
  expect(log).toContain('nonsense');
});
