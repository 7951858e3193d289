/** What becomes of rows that disagree with the host, however that came about. */
import { newId, type SandboxState } from '@torpor/protocol';
import { Fleet, type Member, until } from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

let fleet: Fleet;
let member: Member;
let teamId: string;

const TIMING = {
  unreachableAfterMs: 200,
  reconnectMs: 20,
  listIntervalMs: 100,
  destroyGraceMs: 0,
};

beforeAll(async () => {
  fleet = await Fleet.open();
  fleet.agent.limits.memoryMb = 1_000_000;
  member = await fleet.join({ reconcilerTiming: TIMING });
  await fleet.join({ reconcilerTiming: TIMING });
  const { rows } = await fleet.database.query('select team_id as id from api_keys');
  teamId = String(rows[0].id);
});
afterAll(() => fleet[Symbol.asyncDispose]());

const becomes = (id: string, state: SandboxState) =>
  until(async () => (await member.get(id)).status === state);

/** Waits until the host has been compared with the rows, whole. */
async function compared(): Promise<void> {
  const lists = fleet.agent.count('listSandboxes');
  await until(() => fleet.agent.count('listSandboxes') > lists + 1);
}

describe('a row in a transitional state that no operation is behind', () => {
  test.each<[SandboxState, string, SandboxState]>([
    ['creating', 'running', 'running'],
    ['creating', 'nothing', 'error'],
    ['pausing', 'running', 'running'],
    ['pausing', 'paused', 'paused'],
    ['pausing', 'nothing', 'missing'],
    ['resuming', 'running', 'running'],
    ['resuming', 'paused', 'paused'],
    ['resuming', 'nothing', 'missing'],
    ['snapshotting', 'running', 'running'],
    ['snapshotting', 'nothing', 'missing'],
    ['destroying', 'running', 'running'],
    ['destroying', 'nothing', 'stopped'],
  ])('%s, and the host has it %s: %s', async (state, has, settled) => {
    const { id } = await member.create();
    const info = fleet.agent.sandboxes.get(id);
    if (has === 'nothing') fleet.agent.sandboxes.delete(id);
    else Object.assign(info ?? {}, { status: has });
    await fleet.database.query(
      'update sandboxes set state = $2, revision = revision + 1 where id = $1',
      [id, state],
    );
    await becomes(id, settled);
    expect(await fleet.miscounted()).toEqual([]);
  });
});

test('a database that was restored from an older copy agrees with the host again', async () => {
  const { agent } = fleet;
  const untouched = await member.create();
  const destroyed = await member.create();
  const paused = await member.create();
  const resumed = await member.create();
  await member.call('POST', `/sandboxes/${resumed.id}/pause`);
  // An operation was in progress in the copy.
  const busy = await member.create();
  await fleet.database.query(
    `create table copy_of_sandboxes as select * from sandboxes;
     update copy_of_sandboxes set state = 'pausing' where id = '${busy.id}'`,
  );
  await member.call('DELETE', `/sandboxes/${destroyed.id}`);
  await member.call('POST', `/sandboxes/${paused.id}/pause`);
  await member.call('POST', `/sandboxes/${resumed.id}/resume`);
  const created = await member.create({ metadata: { project: 'demo' } });
  const destroys = agent.count('destroySandbox');
  await fleet.database.query(
    `begin; delete from sandboxes; insert into sandboxes select * from copy_of_sandboxes;
     delete from operations;
     insert into operations (resource, holder, begun_by, kind, team_id, actor_type, expires_at)
       values ('${busy.id}', 'gone', 'gone', 'sandbox.pause', '${teamId}', 'system', now()); commit`,
  );
  const expected: readonly (readonly [string, SandboxState])[] = [
    [untouched.id, 'running'],
    [destroyed.id, 'missing'],
    [paused.id, 'paused'],
    [resumed.id, 'running'],
    [busy.id, 'running'],
    [created.id, 'running'],
  ];
  for (const [id, state] of expected) await becomes(id, state);
  await compared();
  for (const [id, state] of expected) expect((await member.get(id)).status).toBe(state);
  expect((await member.get(created.id)).metadata).toEqual({ project: 'demo' });
  expect((await member.get(paused.id)).build_id).toBeDefined();
  expect(agent.count('destroySandbox')).toBe(destroys);
  // Its fence is older than what the host knows; the next operation's is not.
  expect((await member.call('POST', `/sandboxes/${paused.id}/resume`)).status).toBe(200);
  expect(await fleet.miscounted()).toEqual([]);
  await fleet.database.query('drop table copy_of_sandboxes');
});

test('what a machine still has of a host that was deleted is destroyed, and not adopted', async () => {
  const { agent } = fleet;
  const { id } = await member.create();
  // It was of a host that was given up, and the machine is a host again.
  await fleet.database.query(
    `update sandboxes set state = 'stopped', host_id = 'hodeleted', ended_at = now(),
       revision = revision + 1 where id = $1`,
    [id],
  );
  await until(() => !agent.sandboxes.has(id));
  expect((await member.get(id)).status).toBe('stopped');
});

test('a sandbox of a team that does not exist is left alone, and reported once', async () => {
  const id = newId('sandbox');
  fleet.agent.addSandbox(id, newId('team'));
  await until(() => fleet.log().includes('not adopted'));
  await compared();
  const reports = fleet
    .log()
    .split('\n')
    .filter((line) => line.includes(id));
  expect(reports).toHaveLength(1);
  expect(fleet.agent.sandboxes.has(id)).toBe(true);
  fleet.agent.sandboxes.delete(id);
});

test('a thousand rows are compared without a question per sandbox, and the last ones too', async () => {
  const { agent, database } = fleet;
  const { rows } = await database.query(
    `insert into sandboxes (id, team_id, host_id, template, state, vcpus, memory_mb, timeout_sec,
       allow_internet, started_at)
     select 'sbzzzzz' || lpad(n::text, 15, '0'), $1, 'local', 'base', 'running', 1, 128, 0, true, now()
     from generate_series(1, 1100) as n returning id`,
    [teamId],
  );
  const ids = rows.map(({ id }) => String(id)).sort();
  const count = (state: SandboxState) =>
    fleet.count(`sandboxes where id like 'sbzzzzz%' and state = '${state}'`);
  for (const id of ids) agent.addSandbox(id, teamId, { templateId: 'base' });
  // Some may have been compared before the host had them.
  await compared();
  await until(async () => (await count('running')) === ids.length);
  await compared();
  const asked = agent.count('getSandbox');
  await compared();
  expect(agent.count('getSandbox')).toBe(asked);
  for (const id of [ids[0], ids[600], ids.at(-1)] as string[]) {
    Object.assign(agent.sandboxes.get(id) ?? {}, { status: 'error', reason: 'marker' });
    await becomes(id, 'error');
  }
  agent.becomeUnreachable();
  await until(async () => (await count('unreachable')) === ids.length - 3);
  agent.becomeReachable();
  await until(async () => (await count('running')) === ids.length - 3);
  await database.query(`delete from sandboxes where id like 'sbzzzzz%'`);
  for (const id of ids) agent.sandboxes.delete(id);
});

test('rows of the past cost nothing: those of a host are read by an index that has only the living', async () => {
  const { database } = fleet;
  const { rows } = await database.query(
    `select indexdef from pg_indexes where indexname = 'sandboxes_host_living'`,
  );
  expect(rows[0].indexdef).toContain(`(host_id, id) WHERE (state <> 'stopped'::text)`);
});
