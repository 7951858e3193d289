/**
 * A control plane that cannot know the outcome of an operation, or that another has settled
 * it: its connection broke in a commit, or it hung. It must not undo a result that clients
 * have received.
 */
import type { rest } from '@torpor/protocol';
import { Fleet, type Member, type Step, until } from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, expect, test } from 'vitest';

let fleet: Fleet;
let other: Member;

beforeAll(async () => {
  fleet = await Fleet.open();
  other = await fleet.join();
});
afterAll(() => fleet[Symbol.asyncDispose]());

/** The last commit of an operation reaches the database; the response is lost. */
const LAST_COMMIT = { sql: /commit/, when: 'after', following: /insert into "outbox"/ } as const;

/** A control plane whose connection to the agent stays when that to the database is cut. */
const join = () => fleet.joinSeverable({ hostTransport: fleet.agent.transport, leaseMs: 60_000 });

async function cutIn(step: Step, act: (on: Member) => Promise<Response>): Promise<Response> {
  await using member = await join();
  member.links.arm(step);
  return await act(member);
}

test('a commit whose response is lost has succeeded, if the database says so', async () => {
  const step = { ...LAST_COMMIT, cuts: 'connection' } as const;
  const created = await cutIn(step, ({ call }) => call('POST', '/sandboxes', { memory_mb: 128 }));
  expect(created.status).toBe(201);
  const { id } = (await created.json()) as rest.Sandbox;
  const snapshot = await cutIn(step, ({ call }) =>
    call('POST', '/snapshots', { sandbox_id: id, name: 'doubtful' }),
  );
  expect(snapshot.status).toBe(201);
  expect((await fleet.events()).map(({ kind, status }) => `${kind} ${status}`)).toEqual([
    'sandbox.create success',
    'snapshot.create success',
  ]);
});

test('a snapshot stays that was published by a commit in doubt', async () => {
  const { id } = await other.create();
  const releases = fleet.agent.count('deleteSnapshot');
  const response = await cutIn(LAST_COMMIT, ({ call }) =>
    call('POST', '/snapshots', { sandbox_id: id, name: 'published' }),
  );
  expect(response.ok).toBe(false);
  // The server executes the commit, although no client waits for it.
  await until(
    async () => (await fleet.count(`templates where name = 'published' and state = 'ready'`)) === 1,
  );
  expect(fleet.agent.count('deleteSnapshot')).toBe(releases);
  expect((await other.create({ template: 'published' })).status).toBe('running');
});

test('a sandbox stays that was created by a commit in doubt', async () => {
  const destroys = fleet.agent.count('destroySandbox');
  const response = await cutIn(LAST_COMMIT, ({ call }) =>
    call('POST', '/sandboxes', { memory_mb: 128 }),
  );
  expect(response.ok).toBe(false);
  expect(fleet.agent.count('destroySandbox')).toBe(destroys);
  const running = [...fleet.agent.sandboxes.values()].filter(({ status }) => status === 'running');
  await until(
    async () => (await fleet.count(`sandboxes where state = 'running'`)) === running.length,
  );
});

test('a create that hung does not destroy a sandbox that another control plane has returned', async () => {
  const transport = fleet.agent.transport;
  const gate = Promise.withResolvers<void>();
  await using hung = await fleet.joinSeverable({
    leaseMs: 60_000,
    hostTransport: {
      ...transport,
      unary: async (method, ...call) => {
        const response = await transport.unary(method, ...call);
        if (method.localName === 'createSandbox') await gate.promise;
        return response;
      },
    },
  });
  const destroys = fleet.agent.count('destroySandbox');
  const created = hung.call('POST', '/sandboxes', { memory_mb: 128 });
  await until(async () => (await fleet.count(`sandboxes where state = 'creating'`)) === 1);
  const { rows } = await fleet.database.query(`select id from sandboxes where state = 'creating'`);
  const id = String(rows[0].id);
  await until(() => fleet.agent.sandboxes.get(id)?.status === 'running');
  await fleet.database.query('update operations set expires_at = now() where resource = $1', [id]);
  // The next operation on it settles it first.
  expect((await other.call('POST', `/sandboxes/${id}/pause`)).status).toBe(200);
  gate.resolve();
  expect((await created).status).toBe(409);
  expect(fleet.agent.count('destroySandbox')).toBe(destroys);
  expect((await other.get(id)).status).toBe('paused');
});
