/** A sandbox whose row was lost gets an equal one. */
import { Fleet, type Member, until } from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, expect, test } from 'vitest';

let fleet: Fleet;
let member: Member;

beforeAll(async () => {
  fleet = await Fleet.open();
  member = await fleet.join({ reconcilerTiming: { listIntervalMs: 100 } });
});
afterAll(() => fleet[Symbol.asyncDispose]());

async function forgotten(id: string) {
  const before = await member.get(id);
  await fleet.database.query('delete from sandboxes where id = $1', [id]);
  await until(async () => (await member.get(id)).status === before.status);
  return { before, after: await member.get(id) };
}

test.each(['created from', 'forked from one of'])('one %s a snapshot', async (how) => {
  const name = how.split(' ')[0] ?? '';
  const source = await member.create();
  await member.call('POST', '/snapshots', { sandbox_id: source.id, name });
  let { id } = await member.create({ template: name, metadata: { project: 'demo' } });
  if (name === 'forked') {
    const response = await member.call('POST', `/sandboxes/${id}/fork`, { count: 1 });
    const { children } = (await response.json()) as { children: { sandbox: { id: string } }[] };
    id = children[0]?.sandbox.id ?? '';
  }
  // It took the guest some time to start.
  const info = fleet.agent.sandboxes.get(id);
  Object.assign(info ?? {}, { createdAtUnix: 1_000_000n, startedAtUnix: 1_000_060n });
  const { before, after } = await forgotten(id);
  expect(before.template).toBe(name);
  expect(after).toMatchObject({ template: name, metadata: { project: 'demo' } });
  expect(after.started_at).toBe('1970-01-12T13:47:40.000Z');
  const listed = await member.call('GET', `/sandboxes?template=${name}`);
  const { sandboxes } = (await listed.json()) as { sandboxes: { id: string }[] };
  expect(sandboxes.map((one) => one.id)).toContain(id);
});
