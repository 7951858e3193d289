/** Who waits for whom in the database while hosts are deleted and filled: never in a circle. */
import type { rest } from '@torpor/protocol';
import { errorOf, Fleet, type Member, MemoryHost, until } from '@torpor/testkit/control-plane';
import { Client } from 'pg';
import { afterEach, beforeEach, expect, test } from 'vitest';

let fleet: Fleet;
let member: Member;
let other: Client;
const machines: MemoryHost[] = [];

beforeEach(async () => {
  fleet = await Fleet.open();
  const hostTiming = { silenceMs: 60_000 };
  member = await fleet.joinAlone({ hostTiming });
  other = new Client(fleet.connection);
  await other.connect();
});
afterEach(async () => {
  await other.end();
  for (const machine of machines.splice(0)) await machine[Symbol.asyncDispose]();
  await fleet[Symbol.asyncDispose]();
});

async function joined(): Promise<MemoryHost> {
  const response = await member.call('POST', '/hosts', { name: 'test' });
  const host = await MemoryHost.make();
  machines.push(host);
  await host.start((await response.json()) as rest.CreatedHost);
  await until(() => host.agent.watchers === 1);
  return host;
}

const isWaiting = async () =>
  (await fleet.count(`pg_stat_activity where wait_event_type = 'Lock'`)) > 0;
const remove = (host: MemoryHost) => member.call('DELETE', `/hosts/${host.id}?force=true`);

test('the deletion of a host waits for a create that is being placed there', async () => {
  const host = await joined();
  await member.create();
  // As placement does: the sums, then the host.
  await other.query('begin');
  await other.query('select from host_usage where host_id = $1 for update', [host.id]);
  const removal = remove(host);
  await until(isWaiting);
  await other.query('select from hosts where id = $1 for key share', [host.id]);
  await other.query('commit');
  expect((await removal).status).toBe(204);
  expect(await fleet.count('hosts')).toBe(0);
});

test('the deletion of a host is refused while a sandbox is being resumed there', async () => {
  const host = await joined();
  const { id } = await member.create();
  // As a resume does: the sandbox, then what its host has reserved.
  await other.query('begin');
  await other.query('select from sandboxes where id = $1 for update', [id]);
  let isOver = false;
  const removal = remove(host).finally(() => (isOver = true));
  await until(async () => isOver || (await isWaiting()));
  await other.query('select from host_usage where host_id = $1 for update', [host.id]);
  await other.query('select from hosts where id = $1 for key share', [host.id]);
  await other.query('commit');
  expect(await errorOf(await removal)).toMatchObject({ status: 409, code: 'conflict' });
  expect((await remove(host)).status).toBe(204);
});

test('a create that waits for a host keeps none that it has found full', async () => {
  const [a, c] = [await joined(), await joined()].sort((one, two) => (one.id < two.id ? -1 : 1));
  const third = new Client(fleet.connection);
  await third.connect();
  const reserve = (by: Client, host: MemoryHost | undefined, mb: number) =>
    by.query('update host_usage set memory_mb = $2 where host_id = $1', [host?.id, mb]);
  const lock = (by: Client, host: MemoryHost | undefined) =>
    by.query('select from host_usage where host_id = $1 for update', [host?.id]);
  await reserve(fleet.database, a, 1_000_000);
  await other.query('begin');
  await reserve(other, c, 1_000_000);
  const created = member.call('POST', '/sandboxes', { memory_mb: 128 });
  await until(isWaiting);
  // The one that it waits for becomes full, and another one free, which somebody has locked.
  await reserve(fleet.database, a, 0);
  await third.query('begin');
  await lock(third, a);
  const holder = (await third.query('select pg_backend_pid() as pid')).rows[0]?.pid;
  await other.query('commit');
  await until(async () => {
    const { rows } = await fleet.database.query(
      `select from pg_stat_activity where wait_event_type = 'Lock'
         and $1 = any (pg_blocking_pids(pid))`,
      [holder],
    );
    return rows.length > 0;
  });
  await lock(third, c);
  await third.query('commit');
  expect((await created).status).toBe(201);
  await third.end();
});

test('creates, resumes, and deletions of hosts at the same time end without a deadlock', async () => {
  for (let round = 0; round < 3; round++) {
    const hosts = [await joined(), await joined(), await joined()];
    for (const { agent } of hosts) agent.limits.memoryMb = 1024;
    const made = await Promise.all(
      Array.from({ length: 12 }, () => member.create({ memory_mb: 128 })),
    );
    await Promise.all(made.slice(6).map(({ id }) => member.call('POST', `/sandboxes/${id}/pause`)));
    const statuses = await Promise.all([
      ...hosts.slice(1).map(remove),
      ...made.flatMap(({ id }) => [
        member.call('POST', `/sandboxes/${id}/resume`),
        member.call('POST', `/sandboxes`, { memory_mb: 128 }),
        member.call('POST', `/sandboxes/${id}/pause`),
        member.call('POST', `/sandboxes/${id}/fork`, { count: 2 }),
      ]),
      ...hosts.slice(1).map(remove),
    ]);
    expect(statuses.filter(({ status }) => status === 500)).toEqual([]);
  }
  expect(fleet.log()).not.toContain('deadlock detected');
});
