/** What is counted of sandboxes agrees with their rows, whatever happens to them and their hosts. */
import { type hostAgent, STATES_WITH_MEMORY } from '@torpor/protocol';
import { Fleet, type Member, until } from '@torpor/testkit/control-plane';
import fc from 'fast-check';
import { Pool } from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';

const reconcilerTiming = {
  unreachableAfterMs: 100,
  reconnectMs: 20,
  listIntervalMs: 100,
  recoveryIntervalMs: 50,
  destroyGraceMs: 0,
};

let fleet: Fleet;
let members: readonly [Member, Member];
let database: Pool;
beforeAll(async () => {
  fleet = await Fleet.open();
  database = new Pool(fleet.connection);
  members = [await fleet.join({ reconcilerTiming }), await fleet.join({ reconcilerTiming })];
});
afterAll(async () => {
  await database.end();
  await fleet[Symbol.asyncDispose]();
});

/** What hosts have reserved that is not the sum of their sandboxes. */
async function miscounted(): Promise<unknown[]> {
  const { rows } = await fleet.database.query(
    `select host_id, memory_mb::integer, vcpus::integer from host_usage
     except select hosts.id, coalesce(sum(sandboxes.memory_mb), 0)::integer,
       coalesce(sum(sandboxes.vcpus), 0)::integer
     from hosts left join sandboxes on host_id = hosts.id
       and coalesce(sandboxes.lost_from, sandboxes.state) = any ($1)
     group by hosts.id`,
    [STATES_WITH_MEMORY],
  );
  return rows;
}

/** Waits until the host has what the rows say. */
async function agreed(): Promise<void> {
  await until(async () => {
    const { rows } = await fleet.database.query(
      `select id, state from sandboxes where state not in ('stopped', 'missing', 'error')`,
    );
    const known = [...fleet.agent.sandboxes.values()].filter(({ status }) => status !== 'error');
    const lines = (pairs: string[]) => pairs.sort().join();
    return (
      lines(rows.map(({ id, state }) => `${id} ${state}`)) ===
      lines(known.map(({ sandboxId, status }) => `${sandboxId} ${status}`))
    );
  });
  await until(async () => (await fleet.count('operations')) === 0);
}

/** What the host has lost. */
const lost = new Map<string, hostAgent.SandboxInfo>();

const verb = fc.constantFrom(
  ...(['create', 'pause', 'resume', 'fork', 'destroy', 'snapshot'] as const),
  ...(['forget', 'restore', 'lose', 'find', 'die', 'end', 'purge', 'cut', 'join'] as const),
);
const action = fc.record({ verb, target: fc.nat(5), at: fc.integer({ min: 0, max: 1 }) });
type Action = typeof action extends fc.Arbitrary<infer A> ? A : never;

async function perform({ verb, target, at }: Action, ids: string[]): Promise<void> {
  const { agent } = fleet;
  const member = members[at] ?? members[0];
  const id = ids[target % ids.length] ?? '';
  const path = `/sandboxes/${id}`;
  const info = agent.sandboxes.get(id);
  switch (verb) {
    case 'create': {
      const response = await member.call('POST', '/sandboxes', { memory_mb: 128 });
      if (response.ok) ids.push(((await response.json()) as { id: string }).id);
      return;
    }
    case 'destroy':
      return void (await member.call('DELETE', path));
    case 'snapshot':
      return void (await member.call('POST', '/snapshots?overwrite=true', {
        sandbox_id: id,
        name: `of-${target}`,
      }));
    case 'fork':
      return void (await member.call('POST', `${path}/fork`, { count: 2 }));
    case 'pause':
    case 'resume':
      return void (await member.call('POST', `${path}/${verb}`));
    // The row is that of an older database.
    case 'forget':
      return void (await database.query('delete from sandboxes where id = $1', [id]));
    case 'restore':
      return void (await database.query(
        `update sandboxes set state = 'pausing', revision = revision + 1
         where id = $1 and state in ('running', 'paused')`,
        [id],
      ));
    case 'lose':
      if (info !== undefined) lost.set(id, info);
      return void agent.sandboxes.delete(id);
    case 'find': {
      const before = lost.get(id);
      if (before !== undefined) agent.sandboxes.set(id, before);
      return;
    }
    case 'die':
      if (info?.status === 'running') agent.report(id, 'error', 'killed');
      return;
    case 'end':
      if (info !== undefined) agent.report(id, 'stopped');
      return;
    case 'purge':
      return void (await database.query(`delete from sandboxes where state = 'stopped'`));
    case 'cut':
      return agent.becomeUnreachable();
    case 'join':
      return agent.becomeReachable();
  }
}

test('by hosts and in usage, and the rows agree with the host in the end', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(action, { minLength: 30, maxLength: 60 }), async (actions) => {
      const ids: string[] = [];
      await until(async () => (await members[0].call('POST', '/sandboxes', { memory_mb: 128 })).ok);
      for (let count = 0; count < 4; count++)
        ids.push((await members[0].create({ memory_mb: 128 })).id);
      for (let begin = 0; begin < actions.length; begin += 4) {
        await Promise.all(actions.slice(begin, begin + 4).map((each) => perform(each, ids)));
        expect(await miscounted()).toEqual([]);
      }
      fleet.agent.becomeReachable();
      await agreed();
      expect(await miscounted()).toEqual([]);
      expect(await fleet.miscounted()).toEqual([]);
      const { rows } = await fleet.database.query(
        `select id from sandboxes where state <> 'stopped'`,
      );
      await Promise.all(rows.map(({ id }) => members[1].call('DELETE', `/sandboxes/${id}`)));
    }),
    { numRuns: 3, endOnFailure: true },
  );
  expect(fleet.log()).not.toContain('deadlock detected');
});
