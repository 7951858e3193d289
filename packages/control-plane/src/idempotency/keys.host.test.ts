/** The same request sent twice: to one control plane, to two, and after the first has died in any step. */
import { randomUUID } from 'node:crypto';
import { newApiKey, type rest, TorporError } from '@torpor/protocol';
import { errorOf, Fleet, type Member, type Step, until } from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

const LEASE_MS = 2_000;
const WEBHOOK = { url: 'https://example.com', event_types: ['sandbox.*'] };

let fleet: Fleet;
let survivor: Member;
let other: Member;

beforeAll(async () => {
  fleet = await Fleet.open();
  fleet.agent.limits.memoryMb = 1_000_000;
  survivor = await fleet.join();
  other = await fleet.join();
});
afterAll(() => fleet[Symbol.asyncDispose]());

type Send = (on: Member) => Promise<Response>;

function post(
  { controlPlane: { url, apiKey } }: Member,
  path: string,
  body: object,
  key: string = randomUUID(),
  headers: Record<string, string> = {},
): Promise<Response> {
  return fetch(`${url}/v1${path}`, {
    method: 'POST',
    headers: { 'x-api-key': apiKey, 'idempotency-key': key, ...headers },
    body: JSON.stringify(body),
  });
}

interface Subject {
  /** Of what is created, by one request. */
  readonly made: number;
  /** A request with a key of its own. */
  prepare(): Promise<Send>;
  count(): Promise<number>;
}

const livingSandboxes = () => fleet.count(`sandboxes where state <> 'error'`);

const SUBJECTS: Readonly<Record<string, Subject>> = {
  sandbox: {
    made: 1,
    prepare: async () => {
      const key = randomUUID();
      return (on) => post(on, '/sandboxes', { memory_mb: 128 }, key);
    },
    count: livingSandboxes,
  },
  fork: {
    made: 2,
    prepare: async () => {
      const { id } = await survivor.create();
      const key = randomUUID();
      return (on) => post(on, `/sandboxes/${id}/fork`, { count: 2 }, key);
    },
    count: livingSandboxes,
  },
  snapshot: {
    made: 1,
    prepare: async () => {
      const { id: sandbox_id } = await survivor.create();
      const key = randomUUID();
      return (on) => post(on, '/snapshots', { sandbox_id }, key);
    },
    count: () => fleet.count(`templates where state = 'ready'`),
  },
  'API key': {
    made: 1,
    prepare: async () => {
      const key = randomUUID();
      return (on) => post(on, '/api-keys', { name: key }, key);
    },
    count: () => fleet.count('api_keys'),
  },
  webhook: {
    made: 1,
    prepare: async () => {
      const key = randomUUID();
      return (on) => post(on, '/webhooks', { name: key, ...WEBHOOK }, key);
    },
    count: () => fleet.count('webhooks'),
  },
};

describe.each(Object.entries(SUBJECTS))('%s', (kind, subject) => {
  test('the same request gets the first response, from any control plane', async () => {
    const send = await subject.prepare();
    const before = await subject.count();
    const first = await send(survivor);
    expect(first.status).toBe(201);
    expect(first.headers.has('idempotency-replayed')).toBe(false);
    const body = await first.json();
    for (const member of [survivor, other]) {
      const again = await send(member);
      expect([again.status, again.headers.get('idempotency-replayed')]).toEqual([201, 'true']);
      expect(await again.json()).toEqual(body);
    }
    expect(await subject.count()).toBe(before + subject.made);
  });

  test('requests at the same time wait for the first', async () => {
    const send = await subject.prepare();
    const before = await subject.count();
    const responses = await Promise.all([survivor, other, survivor, other].map(send));
    const bodies = await Promise.all(responses.map((response) => response.text()));
    expect(responses.map(({ status }) => status)).toEqual([201, 201, 201, 201]);
    expect(new Set(bodies).size).toBe(1);
    expect(await subject.count()).toBe(before + subject.made);
  });

  const call = { sandbox: 'createSandbox', fork: 'forkSandbox', snapshot: 'createSnapshot' }[kind];
  const made = /update "idempotency_keys" set "made"/;
  const response = /update "idempotency_keys" set "response"/;
  const steps: Readonly<Record<string, Step>> = {
    'before its key is claimed': { sql: /insert into "idempotency_keys"/, when: 'before' },
    'after its key is claimed': { sql: /insert into "idempotency_keys"/, when: 'after' },
    'before what it makes is recorded': { sql: made, when: 'before' },
    'after what it makes is recorded': { sql: made, when: 'after' },
    'before the commit of that': { sql: /\bcommit\b/, following: made, when: 'before' },
    'after the commit of that': { sql: /\bcommit\b/, following: made, when: 'after' },
    ...(call === undefined
      ? {}
      : {
          'before the agent is called': { call, when: 'before' },
          'after the agent has responded': { call, when: 'after' },
        }),
    'before its events are written': { sql: /insert into "outbox"/, when: 'before' },
    'before the response is stored': { sql: response, when: 'before' },
    'after the response is stored': { sql: response, when: 'after' },
  };

  test('its control plane dies in any step', async () => {
    const before = await subject.count();
    const closing: Promise<void>[] = [];
    const interrupted: Record<string, Send> = {};
    for (const [name, step] of Object.entries(steps)) {
      const send = await subject.prepare();
      const mortal = await fleet.joinSeverable({ leaseMs: LEASE_MS });
      mortal.links.arm(step);
      const first = send(mortal).catch(() => undefined);
      await mortal.links.severed;
      // Its reconciler would be busy looking for its host.
      closing.push(first.then(() => mortal[Symbol.asyncDispose]()));
      interrupted[name] = send;
    }
    const outcomes = await Promise.all(
      Object.entries(interrupted).map(async ([name, send]) => {
        const response = await send(survivor);
        const text = await response.text();
        const again = await (await send(other)).text();
        const isWhole = response.status === 201 && again === text && !text.includes('"error"');
        return [name, isWhole ? 'made once' : text];
      }),
    );
    await Promise.all(closing);
    const expected = Object.keys(steps).map((name) => [name, 'made once']);
    expect(Object.fromEntries(outcomes)).toEqual(Object.fromEntries(expected));
    await until(async () => (await fleet.count('operations')) === 0);
    const count = Object.keys(steps).length;
    // A fork has a source each.
    const all = count * (subject.made + (kind === 'fork' ? 1 : 0));
    expect(await subject.count()).toBe(before + all);
  });
});

test('everything that was made is on the host once', async () => {
  const living = await fleet.count(`sandboxes where state not in ('error', 'stopped')`);
  await until(() => fleet.agent.sandboxes.size === living);
});

describe('errors', () => {
  const create = (key: string, body: object) => post(survivor, '/sandboxes', body, key);

  test('another request with the key is refused, and no other way of writing the same one', async () => {
    const key = randomUUID();
    const body = { memory_mb: 128, metadata: { a: '1', b: '2' } };
    const first = await create(key, body);
    const reused = { status: 422, code: 'idempotency_key_reused' };
    expect(await errorOf(await create(key, { memory_mb: 256 }))).toMatchObject(reused);
    expect(await errorOf(await post(other, '/api-keys', { name: 'x' }, key))).toMatchObject(reused);
    const again = await create(key, { metadata: { b: '2', a: '1' }, memory_mb: 128, vcpus: 1 });
    // A default that is spelled out is another request; the order of members is not.
    expect(again.status).toBe(422);
    const sorted = await create(key, { metadata: { b: '2', a: '1' }, memory_mb: 128 });
    expect(await sorted.text()).toBe(await first.text());
  });

  test.each(['', 'a b', 'x'.repeat(256), 'caf\u00e9'])('the key %j is refused', async (key) => {
    expect(await errorOf(await create(key, {}))).toMatchObject({
      status: 400,
      issues: [{ field: 'idempotency-key' }],
    });
  });

  test('a final error is returned again, one that may pass is not', async () => {
    const key = randomUUID();
    const unknown = await errorOf(await create(key, { template: 'nope' }));
    expect(unknown).toMatchObject({ status: 404 });
    const again = await create(key, { template: 'nope' });
    expect(again.headers.get('idempotency-replayed')).toBe('true');
    expect(await errorOf(again)).toEqual(unknown);

    const patient = randomUUID();
    fleet.agent.limits.memoryMb = 100;
    const full = await create(patient, { memory_mb: 128 });
    fleet.agent.limits.memoryMb = 1_000_000;
    expect([full.status, full.headers.get('retry-after')]).toEqual([503, '10']);
    expect((await create(patient, { memory_mb: 128 })).status).toBe(201);
  });

  test('a sandbox that failed to start is not made again', async () => {
    const key = randomUUID();
    fleet.agent.createError = new TorporError('vmm_failed', 'No VMM.');
    const failed = await errorOf(await create(key, { memory_mb: 128 }));
    expect(failed).toMatchObject({ code: 'vmm_failed' });
    fleet.agent.createError = undefined;
    expect(await errorOf(await create(key, { memory_mb: 128 }))).toEqual(failed);
  });

  test('a key is of its team', async () => {
    const key = randomUUID();
    const first = (await (await create(key, { memory_mb: 128 })).json()) as rest.Sandbox;
    const stranger = newApiKey();
    await fleet.database.query(`insert into teams (id, name) values ('tmother', 'Other')`);
    await fleet.database.query(
      `insert into api_keys (id, team_id, name, key_hash, key_prefix, scopes)
       values ('keother', 'tmother', 'o', encode(sha256($1::bytea), 'hex'), 'tpr_', '{sandboxes.write}')`,
      [Buffer.from(stranger)],
    );
    const second = await post(survivor, '/sandboxes', { memory_mb: 128 }, key, {
      'x-api-key': stranger,
    });
    expect(((await second.json()) as rest.Sandbox).id).not.toBe(first.id);
  });
});

describe('secrets', () => {
  test('are not in the database, nor in the log', async () => {
    const key = randomUUID();
    const created = await post(survivor, '/api-keys', { name: 'secret' }, key);
    const { key: secret, id } = (await created.json()) as rest.CreatedApiKey;
    const { rows } = await fleet.database.query('select * from idempotency_keys');
    expect(JSON.stringify(rows)).not.toContain(secret);
    expect(JSON.stringify(rows)).not.toContain(id);
    expect(fleet.log()).not.toContain(secret);
  });

  test('are returned again only to who created them', async () => {
    const key = randomUUID();
    const created = await post(survivor, '/api-keys', { name: 'mine' }, key);
    expect(created.status).toBe(201);
    const scopes = ['keys.write'];
    const admin = await post(survivor, '/api-keys', { name: 'admin', scopes });
    const { key: adminKey } = (await admin.json()) as rest.CreatedApiKey;
    const stolen = await post(other, '/api-keys', { name: 'mine' }, key, { 'x-api-key': adminKey });
    expect(stolen.status).toBe(422);
  });
});

test('a response is kept for a day', async () => {
  const key = randomUUID();
  const create = async () => {
    const response = await post(survivor, '/sandboxes', { memory_mb: 128 }, key);
    return ((await response.json()) as rest.Sandbox).id;
  };
  const age = (interval: string) =>
    fleet.database.query(
      `update idempotency_keys set created_at = now() - $2::interval where key = $1`,
      [key, interval],
    );
  const first = await create();
  await age('23 hours 59 minutes');
  expect(await create()).toBe(first);
  await age('24 hours 1 minute');
  expect(await create()).not.toBe(first);
});
