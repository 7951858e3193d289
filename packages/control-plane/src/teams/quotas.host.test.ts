/** What a team may have, checked by two control planes on one database. */
import { DEFAULT_QUOTAS } from '@torpor/control-plane/config';
import { QUOTA_NAMES, type QuotaName, type rest } from '@torpor/protocol';
import { errorOf, Fleet, type Member } from '@torpor/testkit/control-plane';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';

const MEMORY_MB = 128;
const DISK_MB = 1024;
const SMALL = { memory_mb: MEMORY_MB, disk_size_mb: DISK_MB };

let fleet: Fleet;
let members: readonly [Member, Member];
let team: string;

beforeAll(async () => {
  fleet = await Fleet.open();
  fleet.agent.limits.memoryMb = 1_000_000;
  const quotas = { ...DEFAULT_QUOTAS, running_sandboxes: 2 };
  members = [await fleet.join({ quotas }), await fleet.join({ quotas })];
  team = (await own()).team_id;
});
afterAll(() => fleet[Symbol.asyncDispose]());
afterEach(async () => {
  await set(Object.fromEntries(QUOTA_NAMES.map((name) => [name, null])));
  const [{ call }] = members;
  const list = (await (await call('GET', '/sandboxes?limit=1000')).json()) as rest.SandboxList;
  await Promise.all(list.sandboxes.map(({ id }) => call('DELETE', `/sandboxes/${id}`)));
  const snapshots = (await (
    await call('GET', '/snapshots?type=snapshot')
  ).json()) as rest.Snapshot[];
  await Promise.all(snapshots.map(({ name }) => call('DELETE', `/snapshots/${name}`)));
});

async function own(): Promise<rest.QuotaList> {
  return (await (await members[0].call('GET', '/quotas')).json()) as rest.QuotaList;
}

function set(changes: rest.SetQuotas): Promise<Response> {
  return members[0].call('PATCH', `/teams/${team}/quotas`, changes);
}

async function quota(name: QuotaName): Promise<rest.Quota | undefined> {
  return (await own()).items.find((item) => item.name === name);
}

const exceeded = (message: string) => ({
  status: 403,
  code: 'quota_exceeded',
  message: expect.stringContaining(message),
});

test('the first team has no limits, whatever the defaults are', async () => {
  for (const { limit, is_default } of (await own()).items) {
    expect([limit, is_default]).toEqual([null, false]);
  }
  for (let n = 0; n < 3; n += 1) await members[0].create(SMALL);
  expect(await quota('running_sandboxes')).toMatchObject({ used: 3, limit: null });
});

describe('what one more than the quota is told', () => {
  const create = () => members[1].call('POST', '/sandboxes', SMALL);

  test.each<[QuotaName, number, string]>([
    ['running_sandboxes', 1, '1 (sandboxes that run, or are about to): 1 are used, 1 more'],
    ['vcpus', 1, 'vcpus of the team is 1'],
    ['memory_mb', MEMORY_MB, `${MEMORY_MB} are used, ${MEMORY_MB} more were requested`],
    ['disk_mb', DISK_MB, `${DISK_MB} are used, ${DISK_MB} more were requested`],
  ])('%s: a sandbox', async (name, limit, message) => {
    await set({ [name]: limit });
    await members[0].create(SMALL);
    expect(await errorOf(await create())).toMatchObject(exceeded(message));
    expect(await fleet.count(`sandboxes where state = 'creating'`)).toBe(0);
    await set({ [name]: 2 * limit });
    expect((await create()).status).toBe(201);
  });

  test('a paused sandbox takes only disk, and is resumed only within the quota', async () => {
    await set({ running_sandboxes: 1 });
    const { id } = await members[0].create(SMALL);
    await members[0].call('POST', `/sandboxes/${id}/pause`);
    expect(await quota('running_sandboxes')).toMatchObject({ used: 0 });
    expect(await quota('disk_mb')).toMatchObject({ used: DISK_MB });
    const other = await members[1].create(SMALL);
    const resume = () => members[0].call('POST', `/sandboxes/${id}/resume`);
    expect(await errorOf(await resume())).toMatchObject(exceeded('running_sandboxes'));
    expect((await members[0].get(id)).status).toBe('paused');
    await members[0].call('DELETE', `/sandboxes/${other.id}`);
    expect((await resume()).status).toBe(200);
  });

  test('a fork makes as many copies as are allowed, and says why there are no more', async () => {
    await set({ running_sandboxes: 3 });
    const { id } = await members[0].create(SMALL);
    const response = await members[0].call('POST', `/sandboxes/${id}/fork`, { count: 4 });
    const { children } = (await response.json()) as rest.ForkResult;
    expect(children.map(({ error }) => error?.code)).toEqual([
      undefined,
      undefined,
      'quota_exceeded',
      'quota_exceeded',
    ]);
  });

  test('a snapshot; one that replaces another is not one more', async () => {
    await set({ snapshots: 1 });
    const { id } = await members[0].create(SMALL);
    const snapshot = (name: string) =>
      members[0].call('POST', '/snapshots?overwrite=true', { sandbox_id: id, name });
    expect((await snapshot('a')).status).toBe(201);
    expect(await errorOf(await snapshot('b'))).toMatchObject(exceeded('snapshots'));
    expect((await snapshot('a')).status).toBe(201);
    await set({ disk_mb: 2 * DISK_MB });
    expect(await errorOf(await snapshot('a'))).toMatchObject(exceeded('disk_mb'));
  });

  test('an API key and a webhook', async () => {
    const { used = 0 } = (await quota('api_keys')) ?? {};
    await set({ api_keys: used, webhooks: 0 });
    const key = await members[0].call('POST', '/api-keys', { name: 'more' });
    expect(await errorOf(key)).toMatchObject(exceeded('api_keys'));
    const webhook = await members[0].call('POST', '/webhooks', {
      name: 'more',
      url: 'https://example.com',
      event_types: ['sandbox.*'],
    });
    expect(await errorOf(webhook)).toMatchObject(exceeded('webhooks'));
  });
});

describe('setting quotas', () => {
  test('a team can be given the default again, and less than it has', async () => {
    for (let n = 0; n < 3; n += 1) await members[0].create(SMALL);
    expect((await set({ running_sandboxes: 'default', vcpus: 1 })).status).toBe(200);
    expect(await quota('running_sandboxes')).toMatchObject({ limit: 2, used: 3, is_default: true });
    expect(await quota('vcpus')).toMatchObject({ limit: 1, used: 3, is_default: false });
    expect((await members[0].call('POST', '/sandboxes', SMALL)).status).toBe(403);
    const [event] = (await fleet.events(team)).slice(-1);
    expect(event).toMatchObject({
      kind: 'team.set_quotas',
      metadata: { running_sandboxes: 'default', vcpus: '1' },
    });
  });

  test.each([
    [{ unknown: 1 }, 400],
    [{ vcpus: -1 }, 400],
    [{ vcpus: 1.5 }, 400],
    [{ vcpus: 'many' }, 400],
  ])('%j is refused', async (body, status) => {
    expect((await members[0].call('PATCH', `/teams/${team}/quotas`, body)).status).toBe(status);
  });

  test('an unknown team is not found, and a key without `platform` may only read its own', async () => {
    const { call } = members[0];
    expect((await call('GET', '/teams/tm-nope/quotas')).status).toBe(404);
    expect((await call('PATCH', '/teams/tm-nope/quotas', { vcpus: 1 })).status).toBe(404);
    const created = await call('POST', '/api-keys', { name: 'member' });
    const { key } = (await created.json()) as rest.CreatedApiKey;
    const { url } = members[0].controlPlane;
    const as = (path: string, method = 'GET') =>
      fetch(`${url}/v1${path}`, {
        method,
        headers: { 'x-api-key': key },
        ...(method === 'GET' ? {} : { body: '{"vcpus":null}' }),
      });
    expect((await as('/quotas')).status).toBe(200);
    expect((await as(`/teams/${team}/quotas`)).status).toBe(403);
    expect((await as(`/teams/${team}/quotas`, 'PATCH')).status).toBe(403);
  });
});

describe('two control planes at once never give more than the quota', () => {
  const both = (count: number, act: (member: Member, n: number) => Promise<Response>) =>
    Promise.all(Array.from({ length: count }, (_, n) => act(members[n % 2] as Member, n)));
  const statuses = (responses: readonly Response[]) =>
    Object.fromEntries(
      [201, 200, 403].map((status) => [
        status,
        responses.filter((response) => response.status === status).length,
      ]),
    );

  test('creates and forks', async () => {
    const source = await members[0].create(SMALL);
    await set({ running_sandboxes: 6 });
    const responses = await both(20, (member, n) =>
      n % 4 === 0
        ? member.call('POST', `/sandboxes/${source.id}/fork`, { count: 2 })
        : member.call('POST', '/sandboxes', SMALL),
    );
    expect(responses.filter(({ status }) => ![201, 403].includes(status))).toEqual([]);
    expect(await fleet.count(`sandboxes where state = 'running'`)).toBe(6);
    expect(fleet.agent.sandboxes.size).toBe(6);
  });

  test('resumes', async () => {
    const rows = await Promise.all(Array.from({ length: 8 }, () => members[0].create(SMALL)));
    await Promise.all(rows.map(({ id }) => members[0].call('POST', `/sandboxes/${id}/pause`)));
    await set({ vcpus: 3 });
    const responses = await both(8, (member, n) =>
      member.call('POST', `/sandboxes/${rows[n]?.id}/resume`),
    );
    expect(statuses(responses)).toMatchObject({ 200: 3, 403: 5 });
  });

  test('snapshots, keys and webhooks', async () => {
    const rows = await Promise.all(Array.from({ length: 6 }, () => members[0].create(SMALL)));
    const { used = 0 } = (await quota('api_keys')) ?? {};
    await set({ snapshots: 2, api_keys: used + 2, webhooks: 2 });
    const snapshots = await both(6, (member, n) =>
      member.call('POST', '/snapshots', { sandbox_id: rows[n]?.id, name: `s${n}` }),
    );
    const keys = await both(6, (member, n) => member.call('POST', '/api-keys', { name: `k${n}` }));
    const webhooks = await both(6, (member, n) =>
      member.call('POST', '/webhooks', {
        name: `w${n}`,
        url: 'https://example.com',
        event_types: ['sandbox.*'],
      }),
    );
    for (const responses of [snapshots, keys, webhooks]) {
      expect(statuses(responses)).toMatchObject({ 201: 2, 403: 4 });
    }
  });
});
