import type { Transport } from '@connectrpc/connect';
import { Fleet, until } from '@torpor/testkit/control-plane';
import { expect, test } from 'vitest';

test('sandboxes of a host that does not respond are unreachable, even if the database failed at first', async () => {
  await using fleet = await Fleet.open();
  const member = await fleet.join({
    reconcilerTiming: { unreachableAfterMs: 100, reconnectMs: 20, listIntervalMs: 60_000 },
  });
  const { id } = await member.create();
  await fleet.database.query(`
    create function refuse() returns trigger language plpgsql as
      $$ begin raise exception 'not at present'; end $$;
    create trigger refuse before update on sandboxes for each row
      when (new.state = 'unreachable') execute function refuse()`);
  fleet.agent.becomeUnreachable();
  await until(() => fleet.log().includes('not at present'));
  await fleet.database.query('drop trigger refuse on sandboxes');
  await until(async () => (await member.get(id)).status === 'unreachable');
  fleet.agent.becomeReachable();
  await until(async () => (await member.get(id)).status === 'running');
  expect((await member.get(id)).reason).toBeUndefined();
});

test('sandboxes that were marked while the host was being connected to come back with it', async () => {
  await using fleet = await Fleet.open();
  const gate = Promise.withResolvers<void>();
  const { transport: agent } = fleet.agent;
  let attempts = 0;
  const hostTransport: Transport = {
    unary: (...call) => agent.unary(...call),
    stream: async (...call) => {
      // The first is lost, the second fails, the third hangs.
      attempts += 1;
      if (attempts === 3) await gate.promise;
      return agent.stream(...call);
    },
  };
  const member = await fleet.join({
    hostTransport,
    reconcilerTiming: { unreachableAfterMs: 500, reconnectMs: 20, listIntervalMs: 600_000 },
  });
  const { id } = await member.create();
  await until(() => fleet.agent.watchers === 1);
  fleet.agent.becomeUnreachable();
  await until(() => attempts === 3);
  fleet.agent.becomeReachable();
  await until(async () => (await member.get(id)).status === 'unreachable');
  gate.resolve();
  await until(async () => (await member.get(id)).status === 'running');
});

test('changes that the host makes by itself are in the audit log', async () => {
  await using fleet = await Fleet.open();
  const member = await fleet.join({
    reconcilerTiming: { unreachableAfterMs: 100, reconnectMs: 20 },
  });
  const becomes = (id: string, state: string) =>
    until(async () => (await member.get(id)).status === state);
  const paused = await member.create({ auto_pause: true, timeout_sec: 60 });
  const dead = await member.create();
  const stopped = await member.create();
  await fleet.agent.autoPause(paused.id);
  fleet.agent.report(dead.id, 'error', 'The VMM was killed by signal 9.');
  fleet.agent.report(stopped.id, 'stopped');
  await becomes(paused.id, 'paused');
  await becomes(dead.id, 'error');
  await becomes(stopped.id, 'stopped');
  fleet.agent.becomeUnreachable();
  await becomes(paused.id, 'unreachable');
  fleet.agent.becomeReachable();
  await becomes(paused.id, 'paused');
  await until(async () => (await fleet.count('outbox where delivered_at is null')) === 0);
  const entries = async (id: string) => {
    const { rows } = await fleet.database.query(
      `select action, a.status, a.metadata->>'reason' as reason from audit_logs a join outbox o on o.id = a.outbox_id
       where resource_id = $1 and a.actor_type = 'system' order by o.id`,
      [id],
    );
    return rows;
  };
  expect(await entries(paused.id)).toMatchObject([
    { action: 'pause', status: 'success' },
    { action: 'lose', status: 'error' },
    { action: 'find', status: 'success' },
  ]);
  expect(await entries(dead.id)).toEqual([
    { action: 'fail', status: 'error', reason: 'The VMM was killed by signal 9.' },
  ]);
  expect(await entries(stopped.id)).toEqual([
    { action: 'destroy', status: 'success', reason: null },
  ]);
});
