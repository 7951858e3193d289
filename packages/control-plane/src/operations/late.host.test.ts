/**
 * A control plane hangs in an operation, another settles it, and then the first one continues:
 * its call must change nothing that has been settled.
 */
import type { Transport } from '@connectrpc/connect';
import { Fleet, type Member, until } from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, expect, test } from 'vitest';

/** A slow machine must not make sandboxes `missing`. */
const UNREACHABLE_AFTER_MS = 600_000;

let fleet: Fleet;
let survivor: Member;

beforeAll(async () => {
  fleet = await Fleet.open();
  fleet.agent.limits.memoryMb = 1_000_000;
  survivor = await fleet.join({
    reconcilerTiming: {
      listIntervalMs: 200,
      recoveryIntervalMs: 50,
      unreachableAfterMs: UNREACHABLE_AFTER_MS,
    },
  });
});
afterAll(() => fleet[Symbol.asyncDispose]());

interface Subject {
  readonly call: string;
  prepare(): Promise<string | undefined>;
  act(on: Member, id: string | undefined): Promise<Response>;
}

const running = async () => (await survivor.create()).id;

async function paused(): Promise<string> {
  const id = await running();
  await survivor.call('POST', `/sandboxes/${id}/pause`);
  return id;
}

const post = (verb: string, body?: object) => (on: Member, id: string | undefined) =>
  on.call('POST', `/sandboxes/${id}/${verb}`, body);

const SUBJECTS: readonly Subject[] = [
  {
    call: 'createSandbox',
    prepare: async () => undefined,
    act: (on) => on.call('POST', '/sandboxes', { memory_mb: 128 }),
  },
  {
    call: 'destroySandbox',
    prepare: running,
    act: (on, id) => on.call('DELETE', `/sandboxes/${id}`),
  },
  { call: 'pauseSandbox', prepare: running, act: post('pause') },
  { call: 'resumeSandbox', prepare: paused, act: post('resume') },
  { call: 'forkSandbox', prepare: running, act: post('fork', { count: 2 }) },
  {
    call: 'createSnapshot',
    prepare: running,
    act: (on, id) => on.call('POST', '/snapshots', { sandbox_id: id, name: 'late' }),
  },
];

/** The agent's transport, in which calls of this name wait. */
function heldTransport(name: string) {
  const { promise: released, resolve: release } = Promise.withResolvers<void>();
  const { promise: reached, resolve: reach } = Promise.withResolvers<void>();
  const { transport: agent } = fleet.agent;
  const transport: Transport = {
    async unary(method, ...rest) {
      if (method.localName === name) {
        reach();
        await released;
      }
      return agent.unary(method, ...rest);
    },
    stream: (...call) => agent.stream(...call),
  };
  return { transport, reached, release };
}

/** Expires the leases of the control plane that hangs, until another has settled its operation. */
async function settleByOther(): Promise<void> {
  await until(async () => {
    await fleet.database.query('update operations set expires_at = now() where begun_by = holder');
    if ((await fleet.count('operations')) > 0) return false;
    return (await fleet.count(`templates where state <> 'ready'`)) === 0;
  });
}

/** What clients see and what the agent has. */
async function everything() {
  const { rows } = await fleet.database.query(
    'select id, state, reason from sandboxes order by id',
  );
  return {
    rows,
    events: await fleet.events(),
    sandboxes: [...fleet.agent.sandboxes].map(([id, { status }]) => [id, status]).toSorted(),
    templates: [...fleet.agent.builds.templates.keys()],
  };
}

test.each(SUBJECTS)('a late $call is refused', async ({ call, prepare, act }) => {
  const id = await prepare();
  const { transport, reached, release } = heldTransport(call);
  await using hung = await fleet.joinSeverable({
    leaseMs: 600_000,
    hostTransport: transport,
    reconcilerTiming: { unreachableAfterMs: UNREACHABLE_AFTER_MS },
  });
  const response = act(hung, id);
  await reached;
  await settleByOther();
  const settled = await everything();
  const calls = fleet.agent.count(call);
  release();
  const outcome = await (await response).text();
  expect(outcome).toContain('another control plane');
  expect(fleet.agent.count(call)).toBe(calls + 1);
  expect(await everything()).toEqual(settled);
});

test('a template is released under a lock, and a late release is refused', async () => {
  const id = await running();
  await survivor.call('POST', '/snapshots', { sandbox_id: id, name: 'released' });
  const { transport, reached, release } = heldTransport('deleteSnapshot');
  await using hung = await fleet.joinSeverable({
    leaseMs: 600_000,
    hostTransport: transport,
    reconcilerTiming: { unreachableAfterMs: UNREACHABLE_AFTER_MS },
  });
  const response = hung.call('DELETE', '/snapshots/released');
  await reached;
  expect(await fleet.count(`operations where resource like 'template:%'`)).toBe(1);
  await settleByOther();
  const settled = await everything();
  release();
  expect((await response).status).toBe(204);
  expect(await everything()).toEqual(settled);
  expect(fleet.log()).toContain('another control plane');
});

test('the agent is not called for an operation whose lease was lost', async () => {
  const id = await running();
  // Within the transaction that begins the operation another control plane gets the lease.
  await fleet.database.query(`
    create function take_lease() returns trigger language plpgsql as $$ begin
      update operations set holder = 'another', expires_at = now() where resource = new.id;
      return new;
    end $$;
    create trigger take_lease after update on sandboxes
      for each row when (new.state = 'pausing') execute function take_lease()`);
  const paused = await survivor.call('POST', `/sandboxes/${id}/pause`);
  await fleet.database.query('drop trigger take_lease on sandboxes; drop function take_lease');
  expect(paused.status).toBe(409);
  await until(async () => (await survivor.get(id)).status === 'running');
  expect(fleet.agent.sandboxes.get(id)?.status).toBe('running');
});

test('a template that the host keeps and no row has is reported, and kept', async () => {
  const id = await running();
  await survivor.call('POST', '/snapshots', { sandbox_id: id, name: 'kept' });
  const [kept = ''] = fleet.agent.builds.templates.keys();
  fleet.agent.builds.templates.set('tplunknown', 'a build');
  await until(() => fleet.log().includes('tplunknown'));
  expect(fleet.log()).not.toContain(`"template":"${kept}"`);
  expect([...fleet.agent.builds.templates.keys()]).toEqual([kept, 'tplunknown']);
  fleet.agent.builds.templates.delete('tplunknown');
});
