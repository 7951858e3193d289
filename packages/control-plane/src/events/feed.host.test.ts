import { newId, rest } from '@torpor/protocol';
import { Torpor } from '@torpor/sdk';
import { Fleet, type Member, until } from '@torpor/testkit/control-plane';
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

function clientOf({ controlPlane }: Member): Torpor {
  return new Torpor({ apiUrl: controlPlane.url, apiKey: controlPlane.apiKey });
}

/** Follows in the background, and keeps what it gets. */
function follow(torpor: Torpor, options: Parameters<Torpor['events']['follow']>[0] = {}) {
  const events: rest.Event[] = [];
  const stop = new AbortController();
  const done = (async () => {
    for await (const event of torpor.events.follow({ ...options, signal: stop.signal })) {
      events.push(event);
    }
  })();
  return {
    events,
    async [Symbol.asyncDispose]() {
      stop.abort();
      await done.catch((reason: unknown) => {
        if (reason !== stop.signal.reason) throw reason;
      });
      await torpor.close();
    },
  };
}

async function all(torpor: Torpor, options: Parameters<Torpor['events']['follow']>[0] = {}) {
  return await Array.fromAsync(torpor.events.follow({ after: '0', follow: false, ...options }));
}

/** Without the states that operations lead to. */
const operations = (events: readonly rest.Event[]) =>
  events.filter(({ type }) => type !== 'sandbox.state');
const described = ({ type, status, resource }: rest.Event) => [type, status, resource.id];

test('a follower gets what happens after it began, from every control plane, in order', async () => {
  await using following = follow(clientOf(first));
  // It has begun when it gets an event; those before are not its own.
  let warmUps = 0;
  await until(async () => {
    warmUps++;
    const { id } = await first.create();
    await first.call('DELETE', `/sandboxes/${id}`);
    return following.events.length > 0;
  });
  const before = following.events.length;
  const { id } = await first.create();
  await second.call('POST', `/sandboxes/${id}/pause`);
  await first.call('POST', `/sandboxes/${id}/resume`);
  await second.call('DELETE', `/sandboxes/${id}`);
  const own = () => operations(following.events).filter(({ resource }) => resource.id === id);
  await until(() => own().length === 4);
  expect(own().map(described)).toEqual(
    ['create', 'pause', 'resume', 'destroy'].map((action) => [`sandbox.${action}`, 'success', id]),
  );
  expect(own()[0]).toMatchObject({ actor: { type: 'api_key', name: 'local' } });
  expect(warmUps).toBeGreaterThan(0);
  expect(before).toBeGreaterThan(0);
});

test('a reader that continues after an event misses none and gets none twice, while two control planes write', async () => {
  await using torpor = clientOf(second);
  const writing = Promise.all(
    [first, second, first, second].map(async (member) => {
      for (let round = 0; round < 5; round++) {
        const { id } = await member.create();
        await member.call('DELETE', `/sandboxes/${id}`);
      }
    }),
  );
  let written = false;
  void writing.then(() => {
    written = true;
  });
  const collected: rest.Event[] = [];
  const begin = (await all(torpor)).at(-1)?.id ?? '0';
  let after = begin;
  // A reader that breaks off after every third event.
  for (let complete = false; !complete; ) {
    complete = written;
    let count = 0;
    for await (const event of torpor.events.follow({ after, follow: false })) {
      collected.push(event);
      after = event.id;
      if (++count === 3) break;
    }
    if (count > 0) complete = false;
  }
  await writing;
  await until(async () => (await fleet.count('outbox where delivered_at is null')) === 0);
  const rest_ = await all(torpor, { after });
  const ids = [...collected, ...rest_].map(({ id }) => id);
  expect(ids).toEqual((await all(torpor, { after: begin })).map(({ id }) => id));
  expect(new Set(ids).size).toBe(ids.length);
  const { rows } = await fleet.database.query(
    'select count(*)::integer as n from outbox where position > $1 or position is null',
    [begin],
  );
  await until(async () => (await all(torpor, { after: begin })).length === rows[0].n);
});

test('filters let through what they say', async () => {
  await using torpor = clientOf(first);
  const { id } = await first.create();
  await first.call('DELETE', `/sandboxes/${id}`);
  await until(async () => (await all(torpor, { resourceId: id })).length === 4);
  expect((await all(torpor, { resourceId: id, type: 'sandbox.destroy' })).map(described)).toEqual([
    ['sandbox.destroy', 'success', id],
  ]);
  expect(await all(torpor, { resourceId: id, type: 'sandbox.*' })).toHaveLength(4);
  expect(await all(torpor, { resourceId: id, type: 'snapshot.*' })).toEqual([]);
  const states = await all(torpor, { resourceId: id, type: 'sandbox.state' });
  expect(states.map(({ metadata }) => metadata.state)).toEqual(['running', 'stopped']);
});

test("another team's events are not sent", async () => {
  await using torpor = clientOf(first);
  const resource = newId('sandbox');
  await fleet.database.query(
    `insert into outbox (kind, resource, team_id, actor_type, status)
     values ('sandbox.create', $1, 'tmother', 'system', 'success')`,
    [resource],
  );
  await until(
    async () =>
      (await fleet.count(`outbox where resource = '${resource}' and position is not null`)) === 1,
  );
  expect(await all(torpor, { resourceId: resource })).toEqual([]);
});

test('the server restarts, and the follower continues where it was', async () => {
  const member = await fleet.join({ port: 0 });
  const { port } = new URL(member.controlPlane.url);
  await using following = follow(clientOf(member), { after: '0' });
  await until(() => following.events.length > 0);
  await member.controlPlane.close();
  const { id } = await first.create();
  await first.call('DELETE', `/sandboxes/${id}`);
  await fleet.join({ port: Number(port) });
  await until(() => following.events.filter(({ resource }) => resource.id === id).length === 4);
  const ids = following.events.map((event) => event.id);
  expect(new Set(ids).size).toBe(ids.length);
  await using torpor = clientOf(first);
  expect(ids).toEqual((await all(torpor)).map((event) => event.id));
});

test('events that are no longer kept are an error, with where to go on; 0 begins with the oldest', async () => {
  await using torpor = clientOf(first);
  const [removed, lastRemoved] = await all(torpor);
  await fleet.database.query('delete from outbox where position <= $1', [lastRemoved?.id]);
  await expect(all(torpor, { after: removed?.id })).rejects.toMatchObject({
    code: 'not_found',
    remedy: expect.stringContaining(`after ${lastRemoved?.id}.`),
  });
  const from = await all(torpor, { after: lastRemoved?.id });
  expect(from.length).toBeGreaterThan(0);
  expect(await all(torpor, { after: '0' })).toEqual(from);
});

test.each([
  ['after=-1', {}],
  ['after=x', {}],
  ['after=99999999', {}],
  ['follow=maybe', {}],
  ['', { 'last-event-id': 'x' }],
])('%s %j is refused before anything is sent', async (query, headers) => {
  const response = await fetch(`${first.controlPlane.url}/v1/events?${query}`, {
    headers: { 'x-api-key': first.controlPlane.apiKey, ...headers },
  });
  expect(response.status).toBe(400);
  expect(rest.errorBodySchema.parse(await response.json()).error.code).toBe('invalid_request');
});
