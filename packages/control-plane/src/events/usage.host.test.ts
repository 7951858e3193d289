import { newId, rest, TorporError } from '@torpor/protocol';
import { errorOf, Fleet, type Member, until } from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, expect, test } from 'vitest';

let fleet: Fleet;
let first: Member;
let second: Member;
beforeAll(async () => {
  fleet = await Fleet.open();
  first = await fleet.join();
  second = await fleet.join();
});
afterAll(() => fleet[Symbol.asyncDispose]());

interface Interval {
  readonly vcpus: number;
  readonly memory_mb: number;
  readonly disk_mb: number;
  readonly started_at: Date;
  readonly ended_at: Date | null;
}

async function intervals(resource: string): Promise<Interval[]> {
  const { rows } = await fleet.database.query(
    'select * from usage_intervals where resource = $1 order by started_at, id',
    [resource],
  );
  return rows;
}

/** When all events have been delivered. */
async function settled(): Promise<void> {
  await until(async () => (await fleet.count('outbox where delivered_at is null')) === 0);
}

/** Does it, and returns between which times. */
async function timed(action: () => Promise<unknown>): Promise<readonly [number, number]> {
  const begun = Date.now();
  await action();
  return [begun, Date.now()];
}

function within(time: Date | null | undefined, [begun, done]: readonly [number, number]): void {
  expect(time?.getTime()).toBeGreaterThanOrEqual(begun);
  expect(time?.getTime()).toBeLessThanOrEqual(done + 1);
}

test('a sandbox takes its memory while it runs, and its disk until it is destroyed', async () => {
  let id = '';
  const created = await timed(async () => {
    ({ id } = await first.create({ vcpus: 2, memory_mb: 256, disk_size_mb: 1024 }));
  });
  const paused = await timed(() => second.call('POST', `/sandboxes/${id}/pause`));
  const resumed = await timed(() => first.call('POST', `/sandboxes/${id}/resume`));
  const destroyed = await timed(() => second.call('DELETE', `/sandboxes/${id}`));
  await settled();
  const found = await intervals(id);
  expect(found.map(({ vcpus, memory_mb, disk_mb }) => [vcpus, memory_mb, disk_mb])).toEqual([
    [2, 256, 1024],
    [0, 0, 1024],
    [2, 256, 1024],
  ]);
  within(found[0]?.started_at, created);
  within(found[0]?.ended_at, paused);
  within(found[1]?.ended_at, resumed);
  within(found[2]?.ended_at, destroyed);
  expect(found[1]?.started_at).toEqual(found[0]?.ended_at);
  expect(found[2]?.started_at).toEqual(found[1]?.ended_at);
});

test('a snapshot pauses its sandbox, and takes its size until it is replaced or deleted', async () => {
  const { id } = await first.create();
  const name = `usage-${Date.now()}`;
  const create = (query = '') => first.call('POST', `/snapshots${query}`, { sandbox_id: id, name });
  expect((await create()).status).toBe(201);
  await settled();
  expect(await intervals(id)).toMatchObject([
    { memory_mb: 128, ended_at: expect.any(Date) },
    { memory_mb: 0, ended_at: null },
  ]);
  const [kept] = await intervals(name);
  expect(kept).toMatchObject({ vcpus: 0, memory_mb: 0, ended_at: null });
  expect(kept?.disk_mb).toBeGreaterThan(0);
  expect((await create('?overwrite=true')).status).toBe(201);
  await first.call('DELETE', `/snapshots/${name}`);
  await settled();
  const after = await intervals(name);
  expect(after.filter(({ ended_at }) => ended_at === null)).toEqual([]);
  await first.call('DELETE', `/sandboxes/${id}`);
});

test('days add up to the whole, and what is in use counts until now', async () => {
  const resource = newId('sandbox');
  const { rows } = await fleet.database.query('select team_id from api_keys limit 1');
  const insert = (from: string, to: string | null) =>
    fleet.database.query(
      `insert into usage_intervals
        (team_id, resource_type, resource, vcpus, memory_mb, disk_mb, started_at, ended_at)
       values ($1, 'sandbox', $2, 3, 100, 1000, $3, $4)`,
      [rows[0].team_id, resource, from, to],
    );
  await insert('2020-02-28T23:00:00Z', '2020-02-29T01:00:00Z');
  await insert('2020-02-29T01:30:00Z', '2020-03-02T00:00:00Z');
  const usage = async (from: string, to: string) =>
    rest.usageSchema.parse(await (await first.call('GET', `/usage?from=${from}&to=${to}`)).json());
  const days = await usage('2020-02-28T00:00:00Z', '2020-03-03T00:00:00Z');
  expect(days.points.map(({ date, vcpu_seconds }) => [date, vcpu_seconds / 3 / 3600])).toEqual([
    ['2020-02-28', 1],
    ['2020-02-29', 23.5],
    ['2020-03-01', 24],
    ['2020-03-02', 0],
  ]);
  expect(days.total).toEqual({
    vcpu_seconds: 48.5 * 3600 * 3,
    memory_mb_seconds: 48.5 * 3600 * 100,
    disk_mb_seconds: 48.5 * 3600 * 1000,
  });
  const part = await usage('2020-02-28T23:45:00Z', '2020-02-29T00:15:00Z');
  expect(part.points.map(({ date, vcpu_seconds }) => [date, vcpu_seconds / 3 / 60])).toEqual([
    ['2020-02-28', 15],
    ['2020-02-29', 15],
  ]);
});

test('what is still to come is not counted', async () => {
  const { id } = await first.create();
  await settled();
  const at = (ms: number) => new Date(Date.now() + ms).toISOString();
  const day = 24 * 3_600_000;
  const read = async (from: number, to: number) => {
    const response = await first.call('GET', `/usage?from=${at(from)}&to=${at(to)}`);
    return rest.usageSchema.parse(await response.json());
  };
  const { total, points } = await read(-day, 3 * day);
  expect(total.vcpu_seconds).toBeGreaterThan(0);
  expect(points.slice(2).map(({ vcpu_seconds }) => vcpu_seconds)).toEqual([0, 0, 0]);
  expect(points.every(({ disk_mb_seconds }) => disk_mb_seconds >= 0)).toBe(true);
  expect((await read(day, 2 * day)).total).toEqual({
    vcpu_seconds: 0,
    memory_mb_seconds: 0,
    disk_mb_seconds: 0,
  });
  await first.call('DELETE', `/sandboxes/${id}`);
});

test('a sandbox that could not be created has no disk', async () => {
  fleet.agent.createError = new TorporError('vmm_failed', 'It did not start.');
  const used = async (name: string) => {
    const { items } = rest.quotaListSchema.parse(await (await first.call('GET', '/quotas')).json());
    return items.find((item) => item.name === name)?.used;
  };
  const before = await used('disk_mb');
  const response = await first.call('POST', '/sandboxes', { disk_size_mb: 2048 });
  fleet.agent.createError = undefined;
  const id = /sb[0-9a-z]{21}|sb[0-9a-z]+/.exec((await errorOf(response)).message)?.[0] ?? '';
  expect(await first.get(id)).toMatchObject({ status: 'error' });
  await settled();
  expect(await intervals(id)).toEqual([]);
  expect(await used('disk_mb')).toBe(before);
  await first.call('DELETE', `/sandboxes/${id}`);
});

test('a clock that is set back makes no interval negative, and none overlap', async () => {
  const { id } = await first.create({ vcpus: 1 });
  await settled();
  // As if the clock had been an hour fast when it was created.
  await fleet.database.query(
    `update usage_intervals set started_at = started_at + interval '1 h' where resource = $1`,
    [id],
  );
  await first.call('POST', `/sandboxes/${id}/pause`);
  await first.call('POST', `/sandboxes/${id}/resume`);
  await first.call('DELETE', `/sandboxes/${id}`);
  await settled();
  const found = await intervals(id);
  expect(found).toHaveLength(3);
  for (const [index, { started_at, ended_at }] of found.entries()) {
    expect(ended_at?.getTime()).toBeGreaterThanOrEqual(started_at.getTime());
    const previous = found[index - 1]?.ended_at ?? started_at;
    expect(started_at.getTime()).toBeGreaterThanOrEqual(previous.getTime());
  }
});

test.each([
  ['from=1969-12-31T23:59:59Z&to=1970-01-02T00:00:00Z', '1970'],
  ['from=2020-01-02T00:00:00Z&to=2020-01-01T00:00:00Z', '`from`'],
  ['from=2020-01-01T00:00:00Z&to=2020-04-03T00:00:01Z', '92'],
  ['from=yesterday', 'from'],
])('%s is refused', async (query, where) => {
  const response = await first.call('GET', `/usage?${query}`);
  expect(response.status).toBe(400);
  const { error } = rest.errorBodySchema.parse(await response.json());
  expect(error.message).toContain(where);
});
