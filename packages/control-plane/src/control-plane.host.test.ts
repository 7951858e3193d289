import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile, rm, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { type rest, TorporError } from '@torpor/protocol';
import {
  INTERRUPTED_CONTROL_PLANE,
  openTestSite,
  type TestSite,
  until,
} from '@torpor/testkit/control-plane';
import { Client } from 'pg';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { ControlPlane } from './control-plane.ts';
import { apiFileSchema } from './data-directory/api-file.ts';
import { startEmbeddedPostgres } from './database/embedded/embedded-postgres.ts';
import {
  isPostmasterOf,
  readPostmasterFile,
  stopPostmaster,
} from './database/embedded/postmaster.ts';

let site: TestSite;
let stack: AsyncDisposableStack;

beforeEach(async () => {
  stack = new AsyncDisposableStack();
  site = stack.use(await openTestSite());
  stack.defer(async () => {
    const left = await readPostmasterFile(databaseDirectory());
    if (left !== undefined) await stopPostmaster(left.pid, databaseDirectory());
  });
});

afterEach(async () => {
  await stack.disposeAsync();
});

const databaseDirectory = () => join(site.dataDir, 'db', 'data');
const credentials = () => join(site.dataDir, 'credentials.json');
const apiFile = () => join(site.dataDir, 'run', 'api.json');

async function start(options: { port?: number; databaseUrl?: string } = {}): Promise<ControlPlane> {
  return stack.use(await ControlPlane.start({ ...site.options, ...options }));
}

async function statusWith(controlPlane: ControlPlane, apiKey: string): Promise<number> {
  const response = await fetch(`${controlPlane.url}/v1/sandboxes`, {
    headers: { 'x-api-key': apiKey },
  });
  return response.status;
}

test('the first start makes a key in a private file, and later starts keep it', async () => {
  const first = await start();
  const content = JSON.parse(await readFile(credentials(), 'utf8'));
  expect(content).toEqual({
    api_key: first.apiKey,
    team_id: expect.stringMatching(/^tm[a-z0-9]{20}$/),
  });
  expect(first.apiKey).toMatch(/^tpr_[0-9a-f]{40}$/);
  expect((await stat(credentials())).mode & 0o777).toBe(0o600);
  expect(await statusWith(first, first.apiKey)).toBe(200);
  await first.close();
  const second = await start();
  expect(second.apiKey).toBe(first.apiKey);
});

test('a lost or foreign key is replaced, for the same team', async () => {
  const first = await start();
  const { team_id } = JSON.parse(await readFile(credentials(), 'utf8'));
  await first.close();
  await writeFile(credentials(), JSON.stringify({ api_key: `tpr_${'0'.repeat(40)}`, team_id }));
  const second = await start();
  expect(second.apiKey).not.toBe(`tpr_${'0'.repeat(40)}`);
  expect(await statusWith(second, second.apiKey)).toBe(200);
  expect(await statusWith(second, first.apiKey)).toBe(200);
  await second.close();
  await rm(credentials());
  const third = await start();
  expect(await statusWith(third, third.apiKey)).toBe(200);
  expect(JSON.parse(await readFile(credentials(), 'utf8')).team_id).toBe(team_id);
});

test('keys are stored as hashes only', async () => {
  const controlPlane = await start();
  await controlPlane.close();
  const database = await startEmbeddedPostgres(site.options);
  try {
    const client = new Client(database.connection);
    await client.connect();
    const { rows } = await client.query('select * from api_keys');
    await client.end();
    expect(rows).toHaveLength(1);
    expect(rows[0]).toMatchObject({
      key_prefix: controlPlane.apiKey.slice(0, 10),
      key_hash: expect.stringMatching(/^[0-9a-f]{64}$/),
    });
    expect(JSON.stringify(rows)).not.toContain(controlPlane.apiKey.slice(10));
  } finally {
    await database.close();
  }
});

test('sandboxes keep running after a stop, unless all are to be destroyed: then their rows are stopped', async () => {
  const first = await start();
  const send = (at: ControlPlane, method: string, path: string, body?: object) =>
    fetch(`${at.url}/v1/sandboxes${path}`, {
      method,
      headers: { 'x-api-key': at.apiKey, 'content-type': 'application/json' },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
  const create = async () =>
    ((await (await send(first, 'POST', '', {})).json()) as rest.Sandbox).id;
  const stateOf = async (at: ControlPlane, id: string) =>
    ((await (await send(at, 'GET', `/${id}`)).json()) as rest.Sandbox).status;
  const ids = [await create(), await create(), await create()];
  const [paused = '', lost = ''] = ids;
  await send(first, 'POST', `/${paused}/pause`);
  await first.close();
  expect(site.agent.sandboxes.size).toBe(3);
  site.agent.sandboxes.delete(lost);
  const second = await start();
  await until(async () => (await stateOf(second, lost)) === 'missing');
  await second.close({ destroyAll: true });
  expect(site.agent.sandboxes.size).toBe(0);
  const third = await start();
  expect(await Promise.all(ids.map((id) => stateOf(third, id)))).toEqual(ids.map(() => 'stopped'));
});

test('a sandbox that cannot be destroyed at the stop is reported, and everything else is closed', async () => {
  const controlPlane = await start();
  await fetch(`${controlPlane.url}/v1/sandboxes`, {
    method: 'POST',
    headers: { 'x-api-key': controlPlane.apiKey, 'content-type': 'application/json' },
    body: '{}',
  });
  site.agent.destroyError = new TorporError('vmm_failed', 'It does not exit.');
  await expect(controlPlane.close({ destroyAll: true })).rejects.toMatchObject({
    code: 'vmm_failed',
  });
  expect(await readPostmasterFile(databaseDirectory())).toBeUndefined();
  await expect(stat(apiFile())).rejects.toThrow();
});

test('api.json says where the API is while it is served', async () => {
  const controlPlane = await start();
  expect(apiFileSchema.parse(JSON.parse(await readFile(apiFile(), 'utf8')))).toEqual({
    url: controlPlane.url,
    pid: process.pid,
  });
  await controlPlane.close();
  await expect(stat(apiFile())).rejects.toThrow();
});

test('a port in use is an error with a remedy, and leaves nothing running', async () => {
  const other = createServer().listen(0, '127.0.0.1');
  await once(other, 'listening');
  const address = other.address();
  const port = typeof address === 'object' ? (address?.port ?? 0) : 0;
  try {
    await expect(start({ port })).rejects.toMatchObject({
      code: 'host_setup',
      message: expect.stringContaining(String(port)),
      remedy: expect.stringContaining('TORPOR_PORT'),
    });
    expect(await readPostmasterFile(databaseDirectory())).toBeUndefined();
  } finally {
    other.close();
  }
});

test('a database of the user’s own is used instead of the embedded one', async () => {
  const database = await startEmbeddedPostgres(site.options);
  stack.defer(() => database.close());
  const { host = '', user = '', port } = database.connection;
  const databaseUrl = `postgresql://${user}@/postgres?host=${encodeURIComponent(host)}&port=${port}`;
  const controlPlane = await start({ databaseUrl });
  const response = await fetch(`${controlPlane.url}/v1/sandboxes`, {
    method: 'POST',
    headers: { 'x-api-key': controlPlane.apiKey },
    body: '{}',
  });
  expect(response.status).toBe(201);
  await controlPlane.close();
  expect(await isPostmasterOf(database.pid() ?? 0, databaseDirectory())).toBe(true);
});

test('a database that does not respond is an error with a remedy', async () => {
  await expect(
    start({ databaseUrl: 'postgresql://nobody@127.0.0.1:1/none' }),
  ).rejects.toMatchObject({ code: 'host_setup', remedy: expect.stringContaining('DATABASE_URL') });
});

test('kill -9 in the middle of a create and a destroy: the next start puts both right', async () => {
  const child = spawn(process.execPath, [INTERRUPTED_CONTROL_PLANE, site.dataDir], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, TMPDIR: site.dataDir },
  });
  stack.defer(() => void child.kill('SIGKILL'));
  const [line] = await once(createInterface({ input: child.stdout }), 'line');
  const { running, destroying, creating, apiKey } = JSON.parse(line) as Record<string, string>;
  child.kill('SIGKILL');
  await once(child, 'close');

  // What the host has after the crash: the running guest, and none that was only half created.
  const { team_id } = JSON.parse(await readFile(credentials(), 'utf8'));
  site.agent.addSandbox(running ?? '', team_id);
  const controlPlane = await start();
  expect(controlPlane.apiKey).toBe(apiKey);
  const get = async (id = '') => {
    const response = await fetch(`${controlPlane.url}/v1/sandboxes/${id}`, {
      headers: { 'x-api-key': controlPlane.apiKey },
    });
    return (await response.json()) as rest.Sandbox;
  };
  await until(async () => (await get(creating)).status === 'error');
  await until(async () => (await get(destroying)).status === 'stopped');
  expect((await get(creating)).reason).toContain('interrupted');
  expect((await get(running)).status).toBe('running');
});

test('two starts at once on one data directory: one serves, the other says why not', async () => {
  const results = await Promise.allSettled([start(), start()]);
  const served = results.filter((result) => result.status === 'fulfilled');
  const refused = results.filter((result) => result.status === 'rejected');
  expect(served).toHaveLength(1);
  expect(refused[0]?.reason).toMatchObject({ code: expect.stringMatching(/conflict|host_setup/) });
  const [winner] = served;
  if (winner !== undefined) expect(await statusWith(winner.value, winner.value.apiKey)).toBe(200);
});
