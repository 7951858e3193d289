/** Two control planes on one database, with several hosts. */
import { randomUUID } from 'node:crypto';
import { type rest, SANDBOX_STATES, STATES_WITH_MEMORY, TorporError } from '@torpor/protocol';
import {
  errorOf,
  Fleet,
  type Member,
  MemoryHost,
  newUser,
  until,
} from '@torpor/testkit/control-plane';
import fc from 'fast-check';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { PLATFORM_TEAM_ID } from '../auth/roles.ts';

const MEMORY_MB = 128;
const HOST_MEMORY_MB = 1024;

let fleet: Fleet;
let members: readonly [Member, Member];
let member: Member;
beforeAll(async () => {
  fleet = await Fleet.open();
  // A busy machine is no silent host.
  const hostTiming = { silenceMs: 60_000 };
  members = [await fleet.joinAlone({ hostTiming }), await fleet.joinAlone({ hostTiming })];
  [member] = members;
});
afterAll(() => fleet[Symbol.asyncDispose]());

const machines: MemoryHost[] = [];
afterEach(async () => {
  for (const machine of machines.splice(0)) await machine[Symbol.asyncDispose]();
  await fleet.database.query('delete from sandboxes');
  await fleet.database.query('delete from templates');
  await fleet.database.query('delete from hosts');
  await fleet.database.query('delete from operations');
});

/** How many control planes have a connection to a host; one of them watches it. */
function followers(hostId: string): number {
  const lines = fleet.log().split('\n');
  return lines.filter((line) => line.includes('Following a host') && line.includes(hostId)).length;
}

/** A machine that has joined and is followed by both control planes. */
async function joined(body: object = {}, machine?: MemoryHost): Promise<MemoryHost> {
  const response = await member.call('POST', '/hosts', { name: 'test', ...body });
  const created = (await response.json()) as rest.CreatedHost;
  expect(response.status, JSON.stringify(created)).toBe(201);
  const host = machine ?? (await MemoryHost.make());
  if (machine === undefined) {
    host.agent.limits.memoryMb = HOST_MEMORY_MB;
    machines.push(host);
  }
  const watches = host.agent.count('watchSandboxes');
  await host.start(created);
  await until(() => host.agent.count('watchSandboxes') > watches && followers(host.id) >= 2);
  await until(async () => {
    const { status } = (await (await member.call('GET', `/hosts/${host.id}`)).json()) as rest.Host;
    return status === 'online';
  });
  return host;
}

const create = (body: object = {}, at = member) =>
  at.call('POST', '/sandboxes', { memory_mb: MEMORY_MB, ...body });

async function hostOf(id: string): Promise<string> {
  const { rows } = await fleet.database.query('select host_id from sandboxes where id = $1', [id]);
  return String(rows[0]?.host_id);
}

async function hostOfNew(body: object = {}): Promise<string> {
  return hostOf((await member.create({ memory_mb: MEMORY_MB, ...body })).id);
}

/** Hosts whose row says something else than the sum of their sandboxes. */
async function miscounted(): Promise<unknown[]> {
  const { rows } = await fleet.database.query(
    `select host_id, memory_mb::integer, vcpus::integer from host_usage
     except select hosts.id, coalesce(sum(sandboxes.memory_mb), 0)::integer,
       coalesce(sum(sandboxes.vcpus), 0)::integer
     from hosts left join sandboxes on host_id = hosts.id
       and coalesce(sandboxes.lost_from, sandboxes.state) = any ($1)
     group by hosts.id`,
    [STATES_WITH_MEMORY],
  );
  return rows;
}

test('the database counts the states in which a sandbox has memory', async () => {
  const { rows } = await fleet.database.query(
    'select state from unnest($1::text[]) as state where holds_memory(state)',
    [SANDBOX_STATES],
  );
  expect(rows.map(({ state }) => state).sort()).toEqual([...STATES_WITH_MEMORY].sort());
});

test('creates through two control planes fill every host, and take no memory twice', async () => {
  const hosts = [await joined(), await joined(), await joined()];
  const room = (hosts.length * HOST_MEMORY_MB) / MEMORY_MB;
  const creates = (count: number) =>
    Promise.all(Array.from({ length: count }, (_, at) => create({}, members[at % 2])));
  const responses = await creates(room);
  expect(responses.map(({ status }) => status)).toEqual(Array(room).fill(201));
  for (const { agent } of hosts) {
    expect([agent.sandboxes.size, agent.refusals]).toEqual([HOST_MEMORY_MB / MEMORY_MB, 0]);
    // What hosts have is known: no create asks for it.
    expect(agent.count('describeHost')).toBe(0);
  }
  const [refused] = await creates(1);
  expect(refused?.headers.get('retry-after')).toBe('10');
  expect(await errorOf(refused as Response)).toMatchObject({
    status: 503,
    code: 'no_hosts_available',
    message: `No host has 128 MiB of memory free for the sandbox: of 3 hosts, the one with most has 0 of 1024 MiB that are not reserved for other sandboxes.`,
  });
  expect(await miscounted()).toEqual([]);
});

test('no schedule of operations through two control planes reserves more than hosts have', async () => {
  const hosts = [await joined(), await joined(), await joined()];
  const verbs = ['create', 'create', 'pause', 'resume', 'fork', 'destroy'] as const;
  const action = fc.record({
    verb: fc.constantFrom(...verbs),
    target: fc.nat(7),
    at: fc.integer({ min: 0, max: 1 }),
    memory: fc.constantFrom(128, 256, 512),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(action, { minLength: 12, maxLength: 24 }), async (actions) => {
      const ids: string[] = [];
      for (let count = 0; count < 8; count++) ids.push((await member.create()).id);
      await Promise.all(
        actions.map(async ({ verb, target, at, memory }) => {
          const path = `/sandboxes/${ids[target]}`;
          const by = members[at] ?? member;
          if (verb === 'create') await create({ memory_mb: memory }, by);
          else if (verb === 'destroy') await by.call('DELETE', path);
          else await by.call('POST', `${path}/${verb}`, verb === 'fork' ? { count: 2 } : undefined);
        }),
      );
      expect(await miscounted()).toEqual([]);
      expect(hosts.map(({ agent }) => agent.refusals)).toEqual([0, 0, 0]);
      const { rows } = await fleet.database.query(
        `select id from sandboxes where state <> 'stopped'`,
      );
      await Promise.all(rows.map(({ id }) => member.call('DELETE', `/sandboxes/${id}`)));
    }),
    { numRuns: 2, endOnFailure: true },
  );
  const { rows } = await fleet.database.query(
    'select sum(memory_mb)::integer as mb from host_usage',
  );
  expect(rows).toEqual([{ mb: 0 }]);
  expect(fleet.log()).not.toContain('deadlock detected');
});

test('a host that refuses, or cannot be connected to, is passed over', async () => {
  const hosts = [await joined(), await joined(), await joined()];
  const [full, away, good] = hosts as [MemoryHost, MemoryHost, MemoryHost];
  full.agent.createError = new TorporError('no_hosts_available', 'This host has no memory left.');
  await away.stop();
  for (let count = 0; count < 6; count++) {
    const { id } = await member.create();
    expect(await hostOf(id)).toBe(good.id);
    expect((await fleet.events(id)).map(({ kind, status }) => [kind, status])).toEqual([
      ['sandbox.create', 'success'],
    ]);
  }
  expect(full.agent.sandboxes.size).toBe(0);
  expect(await miscounted()).toEqual([]);
});

test('a create that every host refuses leaves nothing, and can be tried again', async () => {
  const hosts = [await joined(), await joined()];
  for (const { agent } of hosts) {
    agent.createError = new TorporError('disk_full', 'The disk is full.');
  }
  const key = randomUUID();
  const attempt = () =>
    fetch(`${member.controlPlane.url}/v1/sandboxes`, {
      method: 'POST',
      headers: { 'x-api-key': member.controlPlane.apiKey, 'idempotency-key': key },
      body: '{"memory_mb":128}',
    });
  expect(await errorOf(await attempt())).toMatchObject({ status: 507, code: 'disk_full' });
  expect(hosts.map(({ agent }) => agent.count('createSandbox'))).toEqual([1, 1]);
  expect(await fleet.count('sandboxes')).toBe(0);
  expect(await miscounted()).toEqual([]);
  for (const { agent } of hosts) agent.createError = undefined;
  expect((await attempt()).status).toBe(201);
});

test('a sandbox that failed on its host is not tried on another', async () => {
  const hosts = [await joined(), await joined()];
  for (const { agent } of hosts) agent.createError = new TorporError('vmm_failed', 'No VMM.');
  expect(await errorOf(await create())).toMatchObject({ code: 'vmm_failed' });
  const calls = hosts.map(({ agent }) => agent.count('createSandbox'));
  expect(calls.toSorted()).toEqual([0, 1]);
  expect(await fleet.count(`sandboxes where state = 'error'`)).toBe(1);
});

test('hosts of the team first, those with the tags only', async () => {
  const plain = await joined();
  const tagged = await joined({ tags: ['gpu', 'ssd'] });
  expect(await hostOfNew({ host_tags: ['gpu'] })).toBe(tagged.id);
  expect(await hostOfNew({ host_tags: ['ssd', 'gpu'] })).toBe(tagged.id);
  expect(await errorOf(await create({ host_tags: ['gpu', 'tape'] }))).toMatchObject({
    status: 503,
    code: 'no_hosts_available',
    message: expect.stringContaining('gpu, tape'),
  });
  expect(await errorOf(await create({ host_tags: ['not a tag'] }))).toMatchObject({ status: 400 });
  const own = await joined({ type: 'team' });
  const ids = [];
  for (let count = 0; count < 8; count++) ids.push(await hostOfNew());
  expect(new Set(ids)).toEqual(new Set([own.id]));
  expect([plain.id, tagged.id]).toContain(await hostOfNew());
});

test('the host with the largest free part gets a sandbox', async () => {
  const small = await joined();
  const large = await joined();
  large.agent.limits.memoryMb = 8 * HOST_MEMORY_MB;
  const isKnown = async () =>
    (await fleet.count(`hosts where memory_mb = ${large.agent.limits.memoryMb}`)) === 1;
  await until(isKnown);
  for (let count = 0; count < 8; count++) await member.create({ memory_mb: 256 });
  expect(large.agent.sandboxes.size).toBeGreaterThan(small.agent.sandboxes.size);
});

test('an image is where a host has it, also one that has just been added', async () => {
  const without = await joined();
  const host = await joined();
  host.agent.images.push('fresh');
  for (let count = 0; count < 3; count++) {
    expect(await hostOfNew({ template: 'fresh' })).toBe(host.id);
  }
  expect(without.agent.sandboxes.size).toBe(0);
  host.agent.images.pop();
  expect(await errorOf(await create({ template: 'fresh' }))).toMatchObject({
    status: 404,
    message: 'There is no template "fresh". Images: base, python.',
  });
});

test('a size that no host allows is not a matter of room', async () => {
  const hosts = [await joined(), await joined()];
  for (const { agent } of hosts) agent.limits.memoryMb = 8 * HOST_MEMORY_MB;
  expect(await errorOf(await create({ memory_mb: 4096 }))).toMatchObject({
    code: 'capacity_exceeded',
    message: 'A sandbox on any host can have at most 2048 MiB of memory; 4096 MiB were requested.',
  });
  expect((await errorOf(await create({ vcpus: 9 }))).issues).toEqual([
    { field: 'vcpus', problem: 'must be 1 to 4 on any host' },
  ]);
});

test('processors have no more vCPUs than the setting allows', async () => {
  const strict = await fleet.joinAlone({ vcpuOvercommit: 2, hostTiming: { silenceMs: 60_000 } });
  await joined();
  // It is followed by a third control plane too.
  await until(async () => (await create({ vcpus: 4 }, strict)).status === 201);
  expect((await create({ vcpus: 4 }, strict)).status).toBe(201);
  expect(await errorOf(await create({ vcpus: 1 }, strict))).toMatchObject({
    status: 503,
    message: 'The host does not have room for a sandbox with 1 vCPUs and 128 MiB of memory now.',
  });
  expect((await create({ vcpus: 1 })).status).toBe(201);
  await strict.controlPlane.close();
});

async function snapshotOn(host: MemoryHost, name: string): Promise<string> {
  const { id } = await member.create();
  expect(await hostOf(id)).toBe(host.id);
  const response = await member.call('POST', '/snapshots', { sandbox_id: id, name });
  expect(response.status).toBe(201);
  const { rows } = await fleet.database.query('select id from templates where name = $1', [name]);
  return String(rows[0]?.id);
}

const holders = async (template: string) => {
  const { rows } = await fleet.database.query(
    'select host_id from template_hosts where template_id = $1 order by host_id',
    [template],
  );
  return rows.map(({ host_id }) => String(host_id));
};

test('a snapshot that several hosts have is started on any of them, and released by all, when they are back', async () => {
  const first = await joined();
  const template = await snapshotOn(first, 'warm');
  const second = await joined();
  await joined();
  second.agent.builds.copyFrom(first.agent.builds, template);
  await until(async () => (await holders(template)).length === 2);
  const { id: firstId } = first;
  await first.stop();
  for (let count = 0; count < 3; count++)
    expect(await hostOfNew({ template: 'warm' })).toBe(second.id);
  expect((await member.call('DELETE', '/snapshots/warm')).status).toBe(204);
  expect((await create({ template: 'warm' })).status).toBe(404);
  await until(() => second.agent.builds.templates.size === 0);
  await until(async () => (await holders(template)).join() === firstId);
  expect(first.agent.builds.templates.size).toBe(1);
  await first.start();
  await until(() => first.agent.builds.templates.size === 0);
  await until(async () => (await fleet.count('templates')) === 0);
});

test('a template of the platform is started where its build is, for teams with hosts of their own too', async () => {
  const shared = await joined();
  const admin = await newUser(member.controlPlane, 'placement-admin@example.com', true);
  const other = await newUser(member.controlPlane, 'placement-other@example.com');
  const post = async (path: string, body: object) => {
    const response = await admin.call('POST', path, body, { 'x-team-id': PLATFORM_TEAM_ID });
    expect(response.status).toBe(201);
    return (await response.json()) as { readonly id: string };
  };
  const { id: sandbox_id } = await post('/v1/sandboxes', { memory_mb: MEMORY_MB });
  await post('/v1/snapshots', { sandbox_id, name: 'shared' });
  await joined({ type: 'team' });
  for (let count = 0; count < 3; count++) {
    expect(await hostOfNew({ template: 'shared' })).toBe(shared.id);
  }
  const ofOther = await other.call('POST', '/v1/sandboxes', { template: 'shared' });
  expect(ofOther.status).toBe(201);
  expect(await hostOf(((await ofOther.json()) as rest.Sandbox).id)).toBe(shared.id);
});

test('a host that has lost a build is not asked for it', async () => {
  const host = await joined();
  const template = await snapshotOn(host, 'warm');
  host.agent.builds.templates.delete(template);
  await until(async () => (await holders(template)).length === 0);
  expect(await errorOf(await create({ template: 'warm' }))).toMatchObject({
    status: 503,
    code: 'host_unavailable',
    message: 'No host has the build of the snapshot warm.',
  });
});

test('a sandbox of a host that is being drained can be resumed, and not copied', async () => {
  const host = await joined();
  const { id } = await member.create();
  await member.call('PATCH', `/hosts/${host.id}`, { draining: true });
  expect((await member.call('POST', `/sandboxes/${id}/pause`)).status).toBe(200);
  const preview = await member.call('GET', `/hosts/${host.id}/delete-preview`);
  expect(await preview.json()).toMatchObject({ sandboxes: [{ id, status: 'paused' }] });
  expect((await member.call('POST', `/sandboxes/${id}/resume`)).status).toBe(200);
  const fork = await member.call('POST', `/sandboxes/${id}/fork`, { count: 2 });
  expect(await errorOf(fork)).toMatchObject({
    status: 503,
    code: 'no_hosts_available',
    message: expect.stringContaining(host.id),
  });
  expect(await fleet.count('sandboxes')).toBe(1);
});

test('what a deleted host still has is removed when its machine joins again', async () => {
  const host = await joined();
  const template = await snapshotOn(host, 'lost');
  await member.create();
  const { id: deleted } = host;
  expect((await member.call('DELETE', `/hosts/${deleted}?force=true`)).status).toBe(204);
  await until(() => host.deletions === 1);
  expect(host.agent.builds.templates.has(template)).toBe(true);
  // Also after the rows of stopped sandboxes have been removed.
  await fleet.database.query('delete from sandboxes');
  await host.stop();
  await joined({}, host);
  expect(host.id).not.toBe(deleted);
  await until(() => host.agent.sandboxes.size === 0);
  await until(() => host.agent.builds.templates.size === 0);
  expect(await fleet.count('sandboxes')).toBe(0);
});
