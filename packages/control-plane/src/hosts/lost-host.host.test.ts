/** What becomes of sandboxes whose host does not respond, and how they come back with it. */
import type { rest, SandboxState } from '@torpor/protocol';
import { errorOf, Fleet, type Member, until } from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';

let fleet: Fleet;
let member: Member;

const TIMING = { unreachableAfterMs: 200, reconnectMs: 20, listIntervalMs: 100 };

beforeAll(async () => {
  fleet = await Fleet.open();
  fleet.agent.limits.memoryMb = 1_000_000;
  member = await fleet.join({ reconcilerTiming: { ...TIMING, recoveryIntervalMs: 50 } });
});
afterAll(() => fleet[Symbol.asyncDispose]());
beforeEach(async () => {
  await fleet.database.query(`update hosts set state = 'online'`);
  fleet.agent.becomeReachable();
  // Placement leaves out a host for a while that did not respond.
  await until(async () => (await member.call('POST', '/sandboxes', { memory_mb: 128 })).ok);
  fleet.agent.sandboxes.clear();
  await fleet.database.query(`delete from operations; delete from sandboxes`);
});

const becomes = (id: string, state: SandboxState) =>
  until(async () => (await member.get(id)).status === state);

async function lose(...ids: string[]): Promise<void> {
  fleet.agent.becomeUnreachable();
  for (const id of ids) await becomes(id, 'unreachable');
}

async function kindsOf(id: string): Promise<string[]> {
  return (await fleet.events(id)).map(({ kind, status }) => `${kind} ${status}`);
}

async function used(name: string): Promise<number> {
  const { items } = (await (await member.call('GET', '/quotas')).json()) as {
    items: rest.Quota[];
  };
  return items.find((quota) => quota.name === name)?.used ?? -1;
}

const CALLS: readonly (readonly [string, string, object?])[] = [
  ['POST', 'exec', { cmd: 'true' }],
  ['POST', 'exec', { cmd: 'true', background: true }],
  ['POST', 'files/list', { path: '/' }],
  ['GET', 'processes'],
  ['GET', 'console'],
  ['POST', 'ping'],
  ['POST', 'pause'],
  ['POST', 'resume'],
  ['POST', 'fork', { count: 1 }],
];

describe('while its host does not respond', () => {
  test('every call is refused at once with what to do, without a call to the host', async () => {
    const { id } = await member.create();
    await lose(id);
    expect((await member.get(id)).reason).toContain('may still be running');
    fleet.agent.calls.length = 0;
    const send = (method: string, path: string, body?: object) =>
      member.call(method, path, body).then(errorOf);
    const errors = [
      ...(await Promise.all(
        CALLS.map(([method, path, body]) => send(method, `/sandboxes/${id}/${path}`, body)),
      )),
      await send('POST', '/snapshots?overwrite=true', { sandbox_id: id, name: 'of-lost' }),
    ];
    for (const [index, error] of errors.entries()) {
      expect(error, String(CALLS[index])).toMatchObject({
        status: 503,
        code: 'host_unavailable',
        message: expect.stringContaining(id),
        remedy: expect.stringContaining('It can be destroyed meanwhile'),
      });
    }
    expect(fleet.agent.calls.filter((call) => !/^(watch|list|describe)/.test(call))).toEqual([]);
  });

  test('it takes of the quotas what it took, and is counted as before', async () => {
    const running = await member.create({ vcpus: 2 });
    const paused = await member.create({ vcpus: 3 });
    await member.call('POST', `/sandboxes/${paused.id}/pause`);
    const disk = await used('disk_mb');
    const reserved = async () =>
      (await fleet.database.query('select memory_mb, vcpus::integer from host_usage')).rows;
    const before = await reserved();
    expect(before).toMatchObject([{ vcpus: 2 }]);
    await lose(running.id, paused.id);
    expect(await used('running_sandboxes')).toBe(1);
    expect(await used('vcpus')).toBe(2);
    expect(await used('disk_mb')).toBe(disk);
    expect(await reserved()).toEqual(before);
    await until(async () => (await fleet.count('outbox where delivered_at is null')) === 0);
    const { rows } = await fleet.database.query(
      `select resource, vcpus from usage_intervals where ended_at is null and resource = any($1) order by vcpus`,
      [[running.id, paused.id]],
    );
    expect(rows).toEqual([
      { resource: paused.id, vcpus: 0 },
      { resource: running.id, vcpus: 2 },
    ]);
  });

  test('one that had failed keeps its reason', async () => {
    const { id } = await member.create();
    const marker = await member.create();
    fleet.agent.report(id, 'error', 'The VMM was killed by signal 9.');
    await becomes(id, 'error');
    await lose(marker.id);
    expect(await member.get(id)).toMatchObject({
      status: 'error',
      reason: 'The VMM was killed by signal 9.',
    });
    fleet.agent.becomeReachable();
    await becomes(marker.id, 'running');
    expect(await kindsOf(id)).toEqual(['sandbox.create success', 'sandbox.fail error']);
  });

  test.each(['still has it', 'has destroyed it'])(
    'it can be destroyed; it ends at once, and the host that %s carries it out',
    async (how) => {
      const { id } = await member.create();
      await lose(id);
      for (let attempt = 0; attempt < 2; attempt++) {
        expect((await member.call('DELETE', `/sandboxes/${id}`)).status).toBe(204);
      }
      const ending = await member.get(id);
      expect(ending).toMatchObject({
        status: 'destroying',
        reason: expect.stringContaining('when it is back'),
        ended_at: expect.any(String),
      });
      expect(await used('running_sandboxes')).toBe(0);
      expect(await used('disk_mb')).toBe(0);
      await until(async () => (await fleet.count('outbox where delivered_at is null')) === 0);
      expect(
        await fleet.count(`usage_intervals where resource = '${id}' and ended_at is null`),
      ).toBe(0);
      if (how === 'has destroyed it') fleet.agent.sandboxes.delete(id);
      fleet.agent.becomeReachable();
      await becomes(id, 'stopped');
      expect(fleet.agent.sandboxes.has(id)).toBe(false);
      expect((await member.get(id)).ended_at).toBe(ending.ended_at);
      expect(await kindsOf(id)).toEqual([
        'sandbox.create success',
        'sandbox.lose error',
        'sandbox.destroy success',
      ]);
      expect(await fleet.miscounted()).toEqual([]);
    },
  );

  test('a destroy is accepted even before the loss has been noticed', async () => {
    const { id } = await member.create();
    fleet.agent.becomeUnreachable();
    expect((await member.call('DELETE', `/sandboxes/${id}`)).status).toBe(204);
    fleet.agent.becomeReachable();
    await becomes(id, 'stopped');
    expect(fleet.agent.sandboxes.has(id)).toBe(false);
  });
});

describe('when its host is back', () => {
  test('what it was and still is', async () => {
    const running = await member.create();
    const paused = await member.create();
    await member.call('POST', `/sandboxes/${paused.id}/pause`);
    await lose(running.id, paused.id);
    fleet.agent.becomeReachable();
    await becomes(running.id, 'running');
    await becomes(paused.id, 'paused');
    expect(await kindsOf(running.id)).toEqual([
      'sandbox.create success',
      'sandbox.lose error',
      'sandbox.find success',
    ]);
    expect((await kindsOf(paused.id)).slice(2)).toEqual([
      'sandbox.lose error',
      'sandbox.find success',
    ]);
    expect((await member.call('POST', `/sandboxes/${paused.id}/resume`)).status).toBe(200);
    expect(await fleet.miscounted()).toEqual([]);
  });

  test('it has paused itself', async () => {
    const { id } = await member.create({ auto_pause: true, timeout_sec: 60 });
    await lose(id);
    await fleet.agent.autoPause(id);
    fleet.agent.becomeReachable();
    await becomes(id, 'paused');
    expect((await member.get(id)).build_id).toBeDefined();
    expect((await kindsOf(id)).slice(1)).toEqual([
      'sandbox.lose error',
      'sandbox.find success',
      'sandbox.pause success',
    ]);
    expect(await fleet.miscounted()).toEqual([]);
  });

  test('its VMM has died', async () => {
    const { id } = await member.create();
    await lose(id);
    fleet.agent.report(id, 'error', 'The VMM was killed by signal 9.');
    fleet.agent.becomeReachable();
    await becomes(id, 'error');
    expect((await member.get(id)).reason).toBe('The VMM was killed by signal 9.');
    expect((await kindsOf(id)).slice(1)).toEqual(['sandbox.lose error', 'sandbox.fail error']);
  });

  test('it was destroyed there, as its idle timeout passed', async () => {
    const { id } = await member.create({ timeout_sec: 60 });
    await lose(id);
    fleet.agent.report(id, 'stopped');
    await fleet.database.query(
      `update sandboxes set last_active_at = now() - interval '61 s', revision = revision + 1
       where id = $1`,
      [id],
    );
    fleet.agent.becomeReachable();
    await becomes(id, 'stopped');
    expect((await member.get(id)).reason).toBe('It was not used for 60 s.');
    expect((await kindsOf(id)).slice(1)).toEqual(['sandbox.lose error', 'sandbox.destroy success']);
  });

  test('it is no longer there: missing, found again with it, or destroyed', async () => {
    const found = await member.create();
    const destroyed = await member.create({ auto_pause: true, timeout_sec: 1 });
    await lose(found.id, destroyed.id);
    const { agent } = fleet;
    const info = agent.sandboxes.get(found.id);
    agent.sandboxes.clear();
    agent.becomeReachable();
    for (const { id } of [found, destroyed]) {
      await becomes(id, 'missing');
      const exec = await member.call('POST', `/sandboxes/${id}/exec`, { cmd: 'true' });
      expect(await errorOf(exec)).toMatchObject({
        status: 409,
        code: 'invalid_state',
        remedy: 'Destroy it.',
      });
    }
    expect(await used('running_sandboxes')).toBe(0);
    if (info !== undefined) agent.sandboxes.set(found.id, info);
    await becomes(found.id, 'running');
    expect((await member.call('DELETE', `/sandboxes/${destroyed.id}`)).status).toBe(204);
    expect((await member.get(destroyed.id)).status).toBe('stopped');
    expect(await fleet.miscounted()).toEqual([]);
  });
});

describe('a control plane dies in an operation, and then the host', () => {
  /** The host has sent no heartbeat for a while either. */
  async function loseBoth(path: string, body?: object): Promise<string> {
    const { id } = await member.create();
    const call =
      path === 'DELETE'
        ? 'destroySandbox'
        : path.includes('pause')
          ? 'pauseSandbox'
          : 'createSandbox';
    await using victim = await fleet.joinSeverable({ leaseMs: 60_000 });
    victim.links.arm({ call, when: 'before' });
    const act =
      path === 'DELETE'
        ? victim.call('DELETE', `/sandboxes/${id}`)
        : victim.call('POST', path.replace('ID', id), body);
    const response = act.catch(() => undefined);
    await victim.links.severed;
    fleet.agent.becomeUnreachable();
    await fleet.database.query(`update hosts set state = 'unreachable'`);
    await fleet.database.query('update operations set expires_at = now()');
    await until(async () => (await fleet.count('operations')) === 0);
    await response;
    if (call !== 'createSandbox') return id;
    const { rows } = await fleet.database.query(
      'select id from sandboxes where started_at is null',
    );
    return String(rows[0].id);
  }

  test('in a pause: unreachable, and what the host says when it is back', async () => {
    const id = await loseBoth('/sandboxes/ID/pause');
    expect((await member.get(id)).status).toBe('unreachable');
    fleet.agent.becomeReachable();
    await becomes(id, 'running');
    expect((await kindsOf(id)).slice(1)).toEqual(['sandbox.pause error', 'sandbox.find success']);
  });

  test('in a destroy: it has ended, and the host destroys it', async () => {
    const id = await loseBoth('DELETE');
    expect((await member.get(id)).status).toBe('destroying');
    fleet.agent.becomeReachable();
    await becomes(id, 'stopped');
    expect(fleet.agent.sandboxes.has(id)).toBe(false);
    expect((await kindsOf(id)).slice(1)).toEqual(['sandbox.destroy success']);
  });

  test('in a create: it has failed, and the host destroys what it may have of it', async () => {
    const id = await loseBoth('/sandboxes', { memory_mb: 128 });
    expect((await member.get(id)).status).toBe('destroying');
    fleet.agent.becomeReachable();
    await becomes(id, 'stopped');
    expect((await kindsOf(id))[0]).toBe('sandbox.create error');
  });
});
