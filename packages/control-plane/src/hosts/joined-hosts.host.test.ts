import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PERMISSION_NAMES, type rest } from '@torpor/protocol';
import {
  errorOf,
  Fleet,
  type Member,
  MemoryAgent,
  MemoryHost,
  until,
} from '@torpor/testkit/control-plane';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';

let fleet: Fleet;
let member: Member;
let second: Member;
beforeAll(async () => {
  fleet = await Fleet.open();
  member = await fleet.joinAlone();
  second = await fleet.joinAlone();
});
afterAll(() => fleet[Symbol.asyncDispose]());

const machines: MemoryHost[] = [];
afterEach(async () => {
  for (const machine of machines.splice(0)) await machine[Symbol.asyncDispose]();
  await fleet.database.query(
    'delete from sandboxes; delete from templates; delete from hosts; delete from operations',
  );
});

/** A machine that has joined and is online. */
async function joined(body: object = {}, at = member): Promise<MemoryHost> {
  const response = await at.call('POST', '/hosts', { name: 'test', ...body });
  const created = (await response.json()) as rest.CreatedHost;
  expect(response.status, JSON.stringify(created)).toBe(201);
  const host = await MemoryHost.make();
  machines.push(host);
  await host.start(created);
  await followed(host);
  await hasStatus(host.id, 'online');
  return host;
}

/** Waits until both control planes can call a host, and one of them reconciles it. */
async function followed({ agent, id }: MemoryHost): Promise<void> {
  await until(() => agent.count('watchSandboxes') >= 1);
  for (const each of [member, second]) await until(() => canCall(each, agent));
  await until(
    async () => (await fleet.count(`hosts where id = '${id}' and reconciled_by is not null`)) === 1,
  );
}

/** Whether a create asks the host what it has. */
async function canCall(each: Member, agent: MemoryAgent): Promise<boolean> {
  const before = agent.count('describeHost');
  await each.call('POST', '/sandboxes', { template: 'none', memory_mb: 128 });
  return agent.count('describeHost') > before;
}

async function hostOf(id: string, at = member): Promise<rest.Host> {
  return (await (await at.call('GET', `/hosts/${id}`)).json()) as rest.Host;
}

async function hasStatus(id: string, status: rest.Host['status']): Promise<void> {
  await until(async () => (await hostOf(id)).status === status);
}

const hostOfSandbox = async (id: string) => {
  const { rows } = await fleet.database.query('select host_id from sandboxes where id = $1', [id]);
  return rows[0]?.host_id;
};

test('two control planes and two agents: each serves the sandboxes of both', async () => {
  const first = await joined();
  first.agent.limits.memoryMb = 4096;
  const a = await member.create({ memory_mb: 2048 });
  const b = await second.create({ memory_mb: 2048 });
  const other = await joined();
  const c = await member.create({ memory_mb: 1024 });
  expect(await Promise.all([a, b, c].map(({ id }) => hostOfSandbox(id)))).toEqual([
    first.id,
    first.id,
    other.id,
  ]);
  for (const { id } of [a, b, c]) {
    for (const [pausing, resuming] of [
      [member, second],
      [second, member],
    ] as const) {
      expect((await pausing.call('POST', `/sandboxes/${id}/pause`)).status).toBe(200);
      expect((await resuming.call('POST', `/sandboxes/${id}/resume`)).status).toBe(200);
      const exec = await resuming.call('POST', `/sandboxes/${id}/exec`, {
        cmd: 'echo',
        args: [id],
      });
      expect(await exec.json()).toMatchObject({ stdout: `${id}\n` });
    }
  }
  expect(first.agent.sandboxes.size).toBe(2);
  expect(other.agent.sandboxes.size).toBe(1);
});

test('a host that goes away and comes back is recorded once, by whichever control plane', async () => {
  const host = await joined();
  const sandbox = await member.create();
  const { id } = host;
  await host.stop();
  await hasStatus(id, 'unreachable');
  await until(async () => (await member.get(sandbox.id)).status === 'unreachable');
  await host.start();
  await hasStatus(id, 'online');
  await until(async () => (await member.get(sandbox.id)).status === 'running');
  const kinds = (await fleet.events(id)).map(({ kind }) => kind);
  expect(kinds).toEqual(['host.create', 'host.up', 'host.down', 'host.up']);
  await until(async () => {
    const page = await member.call('GET', '/audit-logs?resource_type=host');
    const { items } = (await page.json()) as rest.AuditPage;
    return items.filter(({ resource_id }) => resource_id === id).length === 4;
  });
  expect(host.agent.calls).not.toContain('pauseSandbox');
  expect(host.agent.calls).not.toContain('destroySandbox');
});

test('nothing ends while there is no control plane', async () => {
  const alone = await fleet.joinAlone();
  const host = await joined({}, alone);
  const url = new URL(alone.controlPlane.agentUrl ?? '');
  const { id } = await alone.create();
  await alone.controlPlane.close();
  const calls = host.agent.calls.filter((call) => !/watch|list|describe/.test(call));
  // Its agent reports to this control plane, which is gone; the others still follow it.
  await hasStatus(host.id, 'unreachable');
  expect((await member.get(id)).status).toBe('running');
  expect(host.agent.calls.filter((call) => !/watch|list|describe/.test(call))).toEqual(calls);
  const again = await fleet.joinAlone({ agents: { host: '127.0.0.1', port: Number(url.port) } });
  await hasStatus(host.id, 'online');
  // It may have been missing for a moment.
  await until(async () => (await again.get(id)).status === 'running');
  const exec = await again.call('POST', `/sandboxes/${id}/exec`, { cmd: 'echo', args: ['here'] });
  expect(await exec.json()).toMatchObject({ stdout: 'here\n' });
  await again.controlPlane.close();
});

test('a new address of a host is followed', async () => {
  const host = await joined();
  const before = host.address;
  const { id } = await member.create();
  await host.stop();
  await host.start();
  expect(host.address).not.toBe(before);
  for (const each of [member, second]) await until(() => canCall(each, host.agent));
  // It may have been unreachable for a moment.
  await until(async () => (await member.get(id)).status === 'running');
  for (const each of [member, second]) {
    expect((await each.call('POST', `/sandboxes/${id}/ping`)).status).toBe(204);
  }
});

test('no new sandboxes are placed on a draining host; those that it has stay', async () => {
  const draining = await joined();
  const { id } = await member.create();
  const drain = await member.call('PATCH', `/hosts/${draining.id}`, { draining: true });
  expect(await drain.json()).toMatchObject({ draining: true });
  expect(await errorOf(await member.call('POST', '/sandboxes', {}))).toMatchObject({
    status: 503,
    code: 'no_hosts_available',
  });
  const other = await joined();
  expect(await hostOfSandbox((await member.create()).id)).toBe(other.id);
  for (const action of ['pause', 'resume']) {
    expect((await member.call('POST', `/sandboxes/${id}/${action}`)).status).toBe(200);
  }
  await member.call('PATCH', `/hosts/${draining.id}`, { draining: false });
  await member.call('PATCH', `/hosts/${other.id}`, { draining: true });
  expect(await hostOfSandbox((await member.create()).id)).toBe(draining.id);
});

test('a sandbox is created from a snapshot where the snapshot is, or not at all', async () => {
  const first = await joined();
  const source = await member.create();
  const snapshot = await member.call('POST', '/snapshots', { sandbox_id: source.id, name: 'kept' });
  expect(snapshot.status).toBe(201);
  await joined();
  await member.call('PATCH', `/hosts/${first.id}`, { draining: true });
  const refused = await member.call('POST', '/sandboxes', { template: 'kept' });
  expect(await errorOf(refused)).toMatchObject({
    code: 'no_hosts_available',
    message: expect.stringContaining(first.id),
  });
  await member.call('PATCH', `/hosts/${first.id}`, { draining: false });
  const copy = await member.call('POST', '/sandboxes', { template: 'kept' });
  expect(await hostOfSandbox(((await copy.json()) as rest.Sandbox).id)).toBe(first.id);
  const { id } = first;
  await first.stop();
  const away = await member.call('POST', '/sandboxes', { template: 'kept' });
  expect(await errorOf(away)).toMatchObject({
    status: 503,
    code: 'host_unavailable',
    message: expect.stringContaining(id),
  });
});

test('a host with sandboxes, paused ones too, is deleted only by force', async () => {
  const host = await joined();
  const { id } = host;
  const running = await member.create();
  const paused = await member.create();
  const destroyed = await member.create();
  await member.call('POST', '/snapshots', { sandbox_id: paused.id, name: 'lost' });
  await member.call('DELETE', `/sandboxes/${destroyed.id}`);
  expect((await member.get(paused.id)).status).toBe('paused');
  const preview = await member.call('GET', `/hosts/${id}/delete-preview`);
  expect(await preview.json()).toMatchObject({
    host: { id },
    sandbox_ids: [running.id, paused.id].sort(),
    snapshots: ['lost'],
  });
  const refused = await errorOf(await member.call('DELETE', `/hosts/${id}`));
  expect(refused).toMatchObject({ status: 409, code: 'has_active_sandboxes' });
  for (const sandbox of [running, paused]) expect(refused.message).toContain(sandbox.id);
  expect((await member.call('DELETE', `/hosts/${id}?force=true`)).status).toBe(204);
  for (const sandbox of [running, paused]) {
    expect(await member.get(sandbox.id)).toMatchObject({
      status: 'stopped',
      reason: 'Its host was deleted.',
    });
  }
  expect(await fleet.count('templates')).toBe(0);
  await until(() => host.deletions === 1);
  expect(host.agent.sandboxes.has(running.id)).toBe(true);
  expect(await fleet.miscounted()).toEqual([]);
});

test('a host cannot change sandboxes of another, whatever it reports', async () => {
  const honest = await joined();
  const sandbox = await member.create();
  const hostile = await joined();
  const { team_id } = (await fleet.database.query('select team_id from sandboxes')).rows[0];
  hostile.agent.addSandbox(sandbox.id, team_id);
  hostile.agent.report(sandbox.id, 'error', 'It was never here.');
  hostile.agent.addSandbox('sbaaaaaaaaaaaaaaaaaaaa', team_id);
  hostile.agent.report('sbaaaaaaaaaaaaaaaaaaaa', 'running');
  // The second report is recorded after the first.
  await until(async () => (await member.get('sbaaaaaaaaaaaaaaaaaaaa')).status === 'running');
  expect((await member.get(sandbox.id)).status).toBe('running');
  expect(await hostOfSandbox(sandbox.id)).toBe(honest.id);
});

test('a host of a team gets its sandboxes only, and is seen by it only', async () => {
  const { rows } = await fleet.database.query('select team_id from api_keys');
  const [{ team_id }] = rows;
  await fleet.database.query(`insert into teams (id, name) values ('tmother', 'Other')`);
  const host = await joined({ type: 'team' });
  expect(await hostOf(host.id)).toMatchObject({ type: 'team', team_id });
  await fleet.database.query(`update hosts set team_id = 'tmother'`);
  expect(await errorOf(await member.call('POST', '/sandboxes', {}))).toMatchObject({
    code: 'no_hosts_available',
  });
  for (const path of [`/hosts/${host.id}`, `/hosts/${host.id}/delete-preview`]) {
    expect((await member.call('GET', path)).status).toBe(404);
  }
  expect((await member.call('DELETE', `/hosts/${host.id}?force=true`)).status).toBe(404);
  expect(await (await member.call('GET', '/hosts')).json()).toEqual([]);
  // Nor is a sandbox of another team adopted from it.
  host.agent.addSandbox('sbbbbbbbbbbbbbbbbbbbbb', team_id);
  host.agent.addSandbox('sbcccccccccccccccccccc', 'tmother');
  host.agent.report('sbbbbbbbbbbbbbbbbbbbbb', 'running');
  host.agent.report('sbcccccccccccccccccccc', 'running');
  await until(async () => (await fleet.count(`sandboxes where team_id = 'tmother'`)) === 1);
  expect(await fleet.count(`sandboxes where team_id <> 'tmother'`)).toBe(0);
});

test('a key without the permission platform sees and creates hosts of the team only', async () => {
  const host = await joined();
  const response = await member.call('POST', '/api-keys', {
    name: 'member',
    scopes: PERMISSION_NAMES.filter((name) => name !== 'platform'),
  });
  const { key } = (await response.json()) as rest.CreatedApiKey;
  const call = (method: string, path: string, body?: object) =>
    fetch(`${member.controlPlane.url}/v1${path}`, {
      method,
      headers: { 'x-api-key': key },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
  expect((await call('GET', `/hosts/${host.id}`)).status).toBe(404);
  expect((await call('PATCH', `/hosts/${host.id}`, { draining: true })).status).toBe(404);
  expect((await call('POST', `/hosts/${host.id}/token`)).status).toBe(404);
  expect((await call('DELETE', `/hosts/${host.id}/tags/x`)).status).toBe(404);
  expect((await call('POST', '/hosts', { name: 'mine' })).status).toBe(403);
  const own = await call('POST', '/hosts', { name: 'mine', type: 'team', tags: ['b', 'a', 'b'] });
  expect(own.status).toBe(201);
  const { host: created } = (await own.json()) as rest.CreatedHost;
  expect(created.tags).toEqual(['b', 'a']);
  expect((await call('POST', `/hosts/${created.id}/tags`, { tag: 'c' })).status).toBe(204);
  expect((await call('DELETE', `/hosts/${created.id}/tags/b`)).status).toBe(204);
  expect((await call('DELETE', `/hosts/${created.id}/tags/b`)).status).toBe(404);
  expect(await (await call('GET', `/hosts/${created.id}/tags`)).json()).toEqual(['a', 'c']);
  expect(await (await call('GET', '/hosts')).json()).toMatchObject([{ id: created.id }]);
});

test('two servers with hosts of their own on one database are two hosts; the first is `local`', async () => {
  const directories = await Promise.all([1, 2].map(() => mkdtemp(join(tmpdir(), 'torpor-local-'))));
  const agents = await Promise.all([MemoryAgent.start(), MemoryAgent.start()]);
  const secretKey = await fleet.secretKey();
  const start = (index: number) =>
    fleet.join({
      dataDir: directories[index] ?? '',
      hostTransport: agents[index]?.transport,
      secretKey,
      // More often than the other control planes take it for silent.
      hostTiming: { heartbeatMs: 100 },
    });
  try {
    const servers = [await start(0), await start(1)];
    const ids = servers.map(({ controlPlane }) => controlPlane.hostId ?? '');
    expect(ids[0]).toBe('local');
    expect(ids[1]).toMatch(/^ho[a-z0-9]{20}$/);
    const sandboxes = await Promise.all(servers.map((server) => server.create()));
    expect(await Promise.all(sandboxes.map(({ id }) => hostOfSandbox(id)))).toEqual(ids);
    // Neither takes the other's sandboxes for lost, nor ends them.
    const [one, two] = servers as [Member, Member];
    await two.controlPlane.close({ destroyAll: true });
    expect(await one.get(sandboxes[0]?.id ?? '')).toMatchObject({ status: 'running' });
    expect(await one.get(sandboxes[1]?.id ?? '')).toMatchObject({ status: 'stopped' });
    expect((await start(1)).controlPlane.hostId).toBe(ids[1]);
    // A copy of a data directory from another database is not taken for the first one.
    await writeFile(
      join(directories[1] ?? '', 'host.json'),
      JSON.stringify({ id: 'local', instance: 'of-another-database' }),
    );
    await two.controlPlane.close();
    expect((await start(1)).controlPlane.hostId).toMatch(/^ho[a-z0-9]{20}$/);
  } finally {
    for (const directory of directories) await rm(directory, { recursive: true });
    for (const agent of agents) await agent[Symbol.asyncDispose]();
  }
});
