import { createHash } from 'node:crypto';
import { MEMBER_PERMISSIONS, newApiKey, newId, type rest } from '@torpor/protocol';
import { openTestSite, type TestSite, until } from '@torpor/testkit/control-plane';
import { Client } from 'pg';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { ControlPlane } from '../control-plane.ts';
import { startEmbeddedPostgres } from '../database/embedded/embedded-postgres.ts';

let stack: AsyncDisposableStack;
let site: TestSite;
let database: Client;
let databaseUrl: string;

beforeEach(async () => {
  stack = new AsyncDisposableStack();
  site = stack.use(await openTestSite());
  const server = await startEmbeddedPostgres(site.options);
  stack.defer(() => server.close());
  const { host = '', user = '', port } = server.connection;
  databaseUrl = `postgresql://${user}@/postgres?host=${encodeURIComponent(host)}&port=${port}`;
  database = new Client(server.connection);
  await database.connect();
  stack.defer(() => database.end());
});
afterEach(() => stack.disposeAsync());

async function start(): Promise<ControlPlane> {
  return stack.use(await ControlPlane.start({ ...site.options, databaseUrl }));
}

function client({ url, apiKey }: ControlPlane, key = apiKey) {
  return (method: string, path: string, body?: object) =>
    fetch(`${url}${path}`, {
      method,
      headers: { 'x-api-key': key },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
}

type Call = ReturnType<typeof client>;

async function create(call: Call, body: object = {}): Promise<rest.Sandbox> {
  const response = await call('POST', '/v1/sandboxes', { memory_mb: 128, ...body });
  expect(response.status).toBe(201);
  return (await response.json()) as rest.Sandbox;
}

/** A template that an earlier control plane left in this state, with its reference on the host. */
async function leave(state: string, name: string, sourceId: string): Promise<string> {
  const id = newId('template');
  site.agent.builds.templates.set(id, 'some-build');
  await database.query(
    `insert into templates (id, team_id, name, type, state, source_sandbox_id, vcpus, memory_mb)
     select $1, team_id, $2, 'snapshot', $3, id, 1, 128 from sandboxes where id = $4`,
    [id, name, state, sourceId],
  );
  await database.query(
    `insert into template_hosts select $1, host_id from sandboxes where id = $2`,
    [id, sourceId],
  );
  return id;
}

async function unsettled(): Promise<string[]> {
  const { rows } = await database.query(`select id from templates where state <> 'ready'`);
  return rows.map(({ id }) => String(id));
}

test('leftovers of snapshots after a crash are removed, from the rows and from the host', async () => {
  const { templates } = site.agent.builds;
  const first = await start();
  const { id } = await create(client(first));
  const busy = await create(client(first));
  const kept = await client(first)('POST', '/v1/snapshots', { sandbox_id: id, name: 'kept' });
  expect(kept.status).toBe(201);
  const [keptId] = templates.keys();
  await first.close();

  // When its control plane died, one was being overwritten and one created. The host still
  // works on the last, and refuses by its fence to keep what it makes too late.
  await leave('deleting', 'kept', id);
  await leave('pending', 'kept', id);
  await leave('pending', 'other', busy.id);
  site.agent.report(busy.id, 'snapshotting');

  const second = await start();
  await until(async () => (await unsettled()).length === 0);
  expect([...templates.keys()]).toEqual([keptId]);
  site.agent.report(busy.id, 'paused');
  const listed = await client(second)('GET', '/v1/snapshots?type=snapshot');
  expect(((await listed.json()) as rest.Snapshot[]).map(({ name }) => name)).toEqual(['kept']);
  expect((await create(client(second), { template: 'kept' })).status).toBe('running');
});

test('a sandbox that was being paused, resumed or copied gets the state from the host', async () => {
  const first = await start();
  const ids = await Promise.all([1, 2, 3].map(async () => (await create(client(first))).id));
  const [pausing = '', resuming = '', snapshotting = ''] = ids;
  for (const id of [resuming, snapshotting]) {
    expect((await client(first)('POST', `/v1/sandboxes/${id}/pause`)).status).toBe(200);
  }
  await first.close();
  for (const [id, state] of [
    [pausing, 'pausing'],
    [resuming, 'resuming'],
    [snapshotting, 'snapshotting'],
  ]) {
    await database.query('update sandboxes set state = $2 where id = $1', [id, state]);
  }
  const second = await start();
  const states = async () =>
    Promise.all(
      ids.map(async (id) => {
        const response = await client(second)('GET', `/v1/sandboxes/${id}`);
        return ((await response.json()) as rest.Sandbox).status;
      }),
    );
  await until(async () => (await states()).join() === 'running,paused,paused');
});

test('another team sees neither snapshots nor builds', async () => {
  const controlPlane = await start();
  const own = client(controlPlane);
  const { id } = await create(own);
  const request = { sandbox_id: id, name: 'warm' };
  expect((await own('POST', '/v1/snapshots', request)).status).toBe(201);

  const key = newApiKey();
  const teamId = newId('team');
  await database.query(`insert into teams (id, name) values ($1, 'Others')`, [teamId]);
  await database.query(
    `insert into api_keys (id, team_id, name, key_hash, key_prefix, scopes)
     values ($1, $2, 'k', $3, 'tpr_', $4)`,
    [newId('apiKey'), teamId, createHash('sha256').update(key).digest('hex'), MEMBER_PERMISSIONS],
  );
  const other = client(controlPlane, key);
  const status = async (method: string, path: string, body?: object) =>
    (await other(method, path, body)).status;
  expect(await (await other('GET', '/v1/snapshots?type=snapshot')).json()).toEqual([]);
  expect(await status('GET', '/v1/snapshots/warm')).toBe(404);
  expect(await status('DELETE', '/v1/snapshots/warm')).toBe(404);
  expect(await status('POST', '/v1/snapshots', request)).toBe(404);
  expect(await status('POST', '/v1/sandboxes', { template: 'warm' })).toBe(404);
  for (const verb of ['pause', 'resume', 'fork']) {
    expect(await status('POST', `/v1/sandboxes/${id}/${verb}`)).toBe(404);
  }
  expect(await status('GET', '/v1/builds?verify=true')).toBe(403);
  expect(await status('POST', '/v1/builds/collect')).toBe(403);
  expect(site.agent.calls).not.toContain('collectBuilds');
  const { id: theirs } = await create(other);
  const mine = await other('POST', '/v1/snapshots', { sandbox_id: theirs, name: 'warm' });
  expect(mine.status).toBe(201);
  expect((await own('DELETE', '/v1/snapshots/warm')).status).toBe(204);
  expect(await status('GET', '/v1/snapshots/warm')).toBe(200);
});
