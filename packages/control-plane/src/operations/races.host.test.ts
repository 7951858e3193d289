/** Concurrent operations of two control planes on one database, with one agent. */

import { setTimeout as delay } from 'node:timers/promises';
import type { Transport } from '@connectrpc/connect';
import type { rest } from '@torpor/protocol';
import { Fleet, type Member, type RecordedEvent, until } from '@torpor/testkit/control-plane';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';

/** For control planes that keep running: longer than a busy machine stalls. */
const LEASE_MS = 20_000;
/** For the one that dies. */
const SHORT_LEASE_MS = 1_000;
const HOST_MEMORY_MB = 1024;
const MEMORY_MB = 128;

let fleet: Fleet;
let members: readonly [Member, Member];

beforeAll(async () => {
  fleet = await Fleet.open();
  fleet.agent.limits.memoryMb = HOST_MEMORY_MB;
  members = [
    await fleet.join({ leaseMs: LEASE_MS, hostTransport: slow(fleet.agent.transport) }),
    await fleet.join({ leaseMs: LEASE_MS, hostTransport: slow(fleet.agent.transport) }),
  ];
});
afterAll(() => fleet[Symbol.asyncDispose]());

/** Calls that take a while, before and after the agent acts. */
function slow(transport: Transport): Transport {
  const pause = () => delay(Math.random() * 15);
  return {
    unary: async (...call) => {
      await pause();
      const response = await transport.unary(...call);
      await pause();
      return response;
    },
    stream: (...call) => transport.stream(...call),
  };
}

interface Action {
  readonly member: number;
  readonly verb: string;
  /** Index of one of the initial sandboxes, and of the names. */
  readonly target: number;
  readonly afterMs: number;
}

/** The requests to `size` control planes. */
function schedules(size: number): fc.Arbitrary<Action[]> {
  const action = fc.record({
    member: fc.integer({ min: 0, max: size - 1 }),
    verb: fc.constantFrom(
      'create',
      'pause',
      'resume',
      'fork',
      'snapshot',
      'overwrite',
      'delete',
      'destroy',
    ),
    target: fc.integer({ min: 0, max: 1 }),
    afterMs: fc.integer({ min: 0, max: 60 }),
  });
  return fc.array(action, { minLength: 8, maxLength: 24 });
}

async function act({ verb, target, afterMs }: Action, { call }: Member, ids: readonly string[]) {
  await delay(afterMs);
  const id = ids[target];
  const name = `name-${target}`;
  switch (verb) {
    case 'create':
      return call('POST', '/sandboxes', { memory_mb: MEMORY_MB });
    case 'fork':
      return call('POST', `/sandboxes/${id}/fork`, { count: 2 });
    case 'snapshot':
      return call('POST', '/snapshots', { sandbox_id: id, name });
    case 'overwrite':
      return call('POST', '/snapshots?overwrite=true', { sandbox_id: id, name });
    case 'delete':
      return call('DELETE', `/snapshots/${name}`);
    case 'destroy':
      return call('DELETE', `/sandboxes/${id}`);
    default:
      return call('POST', `/sandboxes/${id}/${verb}`);
  }
}

/** How many actions of each kind succeeded by their responses. The others must have been refused with a reason. */
async function successes(
  actions: readonly Action[],
  responses: readonly (Response | undefined)[],
): Promise<(verb: string) => number> {
  const done: string[] = [];
  for (const [index, response] of responses.entries()) {
    const { verb } = actions[index] as Action;
    if (response?.ok === true) done.push(verb);
    // The state, no such name, or no memory left.
    else if (response !== undefined) {
      expect([404, 409, 503], `${verb}: ${await response.text()}`).toContain(response.status);
    }
  }
  return (verb) => done.filter((one) => one === verb).length;
}

async function removeAll(): Promise<void> {
  const [{ call }] = members;
  const list = (await (await call('GET', '/sandboxes?limit=1000')).json()) as rest.SandboxList;
  await Promise.all(list.sandboxes.map(({ id }) => call('DELETE', `/sandboxes/${id}`)));
  await Promise.all([0, 1].map((n) => call('DELETE', `/snapshots/name-${n}`)));
}

/** The possible events in a state, and the next state. */
const MACHINE: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  'sandbox.create': { none: 'running' },
  'sandbox.fork': { none: 'running' },
  'sandbox.pause': { running: 'paused' },
  'sandbox.resume': { paused: 'running' },
  'snapshot.create': { running: 'paused', paused: 'paused' },
  'sandbox.destroy': { running: 'none', paused: 'none' },
};

/** The states of sandboxes after these events. Throws for an event that is not possible in its order. */
function replay(events: readonly RecordedEvent[]): Map<string, string> {
  const states = new Map<string, string>();
  for (const { kind, resource, status, metadata } of events) {
    // An operation of the dead control plane may have been rolled back.
    if (kind === 'snapshot.delete' || (status === 'error' && metadata.recovered === 'true')) {
      continue;
    }
    // Its source is not locked, and may be destroyed before the agent copies it.
    if (kind === 'sandbox.fork' && metadata.code === 'not_found') continue;
    const id = kind === 'snapshot.create' ? (metadata.sandbox ?? '') : resource;
    const before = states.get(id) ?? 'none';
    const after = MACHINE[kind]?.[before];
    if (status !== 'success' || after === undefined) {
      throw new Error(`${kind} ${status} of ${id}, which was ${before}`);
    }
    states.set(id, after);
  }
  return states;
}

async function isQuiet(): Promise<boolean> {
  return (
    (await fleet.count('operations')) === 0 &&
    (await fleet.count(`templates where state <> 'ready'`)) === 0 &&
    (await fleet.count('outbox where delivered_at is null')) === 0
  );
}

/** Rows, names and the audit log agree with the agent. */
async function expectAgreement(): Promise<void> {
  const { rows } = await fleet.database.query(
    `select id, state from sandboxes where state not in ('stopped', 'error') order by id`,
  );
  const known = [...fleet.agent.sandboxes].map(([id, { status: state }]) => ({ id, state }));
  expect(rows).toEqual(known.toSorted((a, b) => (a.id < b.id ? -1 : 1)));
  const templates = await fleet.database.query(`select id from templates order by id`);
  expect(templates.rows.map(({ id }) => id)).toEqual(
    [...fleet.agent.builds.templates.keys()].toSorted(),
  );
  expect(await fleet.miscounted()).toEqual([]);
  expect(await fleet.count('audit_logs')).toBe(
    await fleet.count("outbox where kind <> 'sandbox.state'"),
  );
}

test('concurrent requests to both take effect in some order, once, and are recorded', async () => {
  await fc.assert(
    fc.asyncProperty(schedules(2), async (actions) => {
      const begun = (await fleet.events()).length;
      const ids = await Promise.all(members.map(async ({ create }) => (await create()).id));
      const responses = await Promise.all(
        actions.map((one) => act(one, members[one.member as 0 | 1], ids)),
      );
      const done = await successes(actions, responses);
      await until(isQuiet);
      const events = (await fleet.events()).slice(begun);
      for (const [id, state] of replay(events)) {
        const expected = state === 'none' ? undefined : state;
        expect(fleet.agent.sandboxes.get(id)?.status, id).toBe(expected);
        expect((await members[0].get(id)).status, id).toBe(expected ?? 'stopped');
      }
      await expectAgreement();
      const count = (kind: string) => events.filter((event) => event.kind === kind).length;
      expect(count('sandbox.pause')).toBe(done('pause'));
      expect(count('sandbox.resume')).toBe(done('resume'));
      expect(count('sandbox.create')).toBe(done('create') + ids.length);
      expect(count('snapshot.delete')).toBe(done('delete'));
      expect(count('snapshot.create')).toBe(done('snapshot') + done('overwrite'));
      await removeAll();
    }),
    { numRuns: 12, endOnFailure: true },
  );
});

test('a control plane that dies during concurrent requests leaves nothing half done', async () => {
  const cut = fc.integer({ min: 5, max: 150 });
  await fc.assert(
    fc.asyncProperty(schedules(3), cut, async (actions, cutAfterMs) => {
      await using doomed = await fleet.joinSeverable(
        { leaseMs: SHORT_LEASE_MS },
        slow(fleet.agent.transport),
      );
      const begun = (await fleet.events()).length;
      const ids = await Promise.all(members.map(async ({ create }) => (await create()).id));
      const all = [...members, doomed];
      const asked = actions.map((one) => {
        const member = all[one.member] as Member;
        const response = act(one, member, ids);
        // The response of the one that died is unknown.
        return member === doomed ? response.then(() => undefined).catch(() => undefined) : response;
      });
      await delay(cutAfterMs);
      doomed.links.sever();
      const done = await successes(actions, await Promise.all(asked));
      await until(isQuiet);
      const events = (await fleet.events()).slice(begun);
      const states = replay(events);
      await until(async () =>
        [...states].every(
          ([id, state]) => (fleet.agent.sandboxes.get(id)?.status ?? 'none') === state,
        ),
      );
      await expectAgreement();
      const count = (kind: string) => events.filter((event) => event.kind === kind).length;
      expect(count('sandbox.pause')).toBeGreaterThanOrEqual(done('pause'));
      expect(count('sandbox.resume')).toBeGreaterThanOrEqual(done('resume'));
      await removeAll();
    }),
    { numRuns: 8, endOnFailure: true },
  );
});

test('both together do not reserve more memory than there is', async () => {
  const room = HOST_MEMORY_MB / 256;
  const responses = await Promise.all(
    Array.from({ length: room * 2 }, (_, index) =>
      members[(index % 2) as 0 | 1].call('POST', '/sandboxes', { memory_mb: 256 }),
    ),
  );
  const statuses = responses.map(({ status }) => status);
  expect(statuses.filter((status) => status === 201)).toHaveLength(room);
  expect(statuses.filter((status) => status === 503)).toHaveLength(room);
  await removeAll();
});

test('of two pauses, one at each, exactly one succeeds', async () => {
  const { id } = await members[0].create();
  const calls = fleet.agent.count('pauseSandbox');
  const responses = await Promise.all(
    members.map(({ call }) => call('POST', `/sandboxes/${id}/pause`)),
  );
  expect(responses.map(({ status }) => status).toSorted()).toEqual([200, 409]);
  expect(fleet.agent.count('pauseSandbox')).toBe(calls + 1);
  await removeAll();
});

test('an operation keeps its lock for longer than a lease, and the other waits for it', async () => {
  await using first = await fleet.joinSeverable({ leaseMs: SHORT_LEASE_MS });
  const { id } = await first.create();
  const gate = Promise.withResolvers<void>();
  fleet.agent.builds.commitGate = gate.promise;
  const paused = first.call('POST', `/sandboxes/${id}/pause`);
  await until(async () => (await members[1].get(id)).status === 'pausing');
  const destroyed = members[1].call('DELETE', `/sandboxes/${id}`);
  await fleet.database.query('create temporary table first as select * from operations');
  await until(async () => {
    const isRenewed = `o.expires_at > f.expires_at + interval '${2 * SHORT_LEASE_MS} ms'`;
    return (await fleet.count(`operations o join first f using (holder) where ${isRenewed}`)) > 0;
  });
  expect(fleet.agent.sandboxes.has(id)).toBe(true);
  fleet.agent.builds.commitGate = Promise.resolve();
  gate.resolve();
  expect((await paused).status).toBe(200);
  expect((await destroyed).status).toBe(204);
  expect((await fleet.events(id)).map(({ kind, status }) => `${kind} ${status}`)).toEqual([
    'sandbox.create success',
    'sandbox.pause success',
    'sandbox.destroy success',
  ]);
});

test('the reconciler of one does not touch a row that an operation of the other has locked', async () => {
  const gate = Promise.withResolvers<void>();
  const held: Transport = {
    ...fleet.agent.transport,
    unary: async (method, ...call) => {
      const response = await fleet.agent.transport.unary(method, ...call);
      // The agent has acted; its response is in flight.
      if (method.localName === 'pauseSandbox') await gate.promise;
      return response;
    },
  };
  await using other = await fleet.joinSeverable({ leaseMs: LEASE_MS }, held);
  const { id } = await members[0].create();
  const paused = other.call('POST', `/sandboxes/${id}/pause`);
  await until(() => fleet.agent.sandboxes.get(id)?.status === 'paused');
  const lists = fleet.agent.count('listSandboxes');
  // Each of the three has compared the agent's list with the rows a few times.
  await until(() => fleet.agent.count('listSandboxes') > lists + 9);
  expect((await members[0].get(id)).status).toBe('pausing');
  gate.resolve();
  expect((await paused).status).toBe(200);
  expect((await members[0].get(id)).status).toBe('paused');
  expect((await fleet.events(id)).map(({ kind }) => kind)).toEqual([
    'sandbox.create',
    'sandbox.pause',
  ]);
  await removeAll();
});

test('a control plane that only hung writes nothing once another has taken its leases', async () => {
  const { id } = await members[0].create();
  const gate = Promise.withResolvers<void>();
  fleet.agent.builds.commitGate = gate.promise;
  await using hung = await fleet.joinSeverable({ leaseMs: 60_000 });
  const calls = fleet.agent.count('pauseSandbox');
  const paused = hung.call('POST', `/sandboxes/${id}/pause`);
  await until(() => fleet.agent.count('pauseSandbox') > calls);
  // As if it had not renewed its lease.
  await fleet.database.query(`update operations set expires_at = now() where resource = $1`, [id]);
  const destroyed = members[1].call('DELETE', `/sandboxes/${id}`);
  await until(async () => (await fleet.count('operations where begun_by <> holder')) === 1);
  fleet.agent.builds.commitGate = Promise.resolve();
  gate.resolve();
  expect((await destroyed).status).toBe(204);
  const response = await paused;
  expect(response.status).toBe(409);
  expect(((await response.json()) as rest.ErrorBody).error.code).toBe('conflict');
  expect((await fleet.events(id)).slice(1)).toMatchObject([
    { kind: 'sandbox.pause', status: 'success', metadata: { recovered: 'true' } },
    { kind: 'sandbox.destroy', status: 'success' },
  ]);
});
