/**
 * Three hosts with real guests and two control planes, on one machine (machines.ts): what is done
 * across them, and what is left when a network, a control plane or an agent fails. In the end
 * nothing is lost, nothing runs twice, and audit log, usage and webhooks are exact.
 */
import { DEFAULT_DISK_MIB } from '@torpor/agent/testing';
import { rest } from '@torpor/protocol';
import { until } from '@torpor/testkit/control-plane';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { vmmsOf } from '../agent/agent-under-test.ts';
import type { RestClient, RestResponse } from '../support/rest-client.ts';
import {
  disagreements,
  inexactAudit,
  inexactUsage,
  undelivered,
  unrecordedChanges,
} from './invariants.ts';
import { type ControlPlaneMachine, FleetOfMachines, type HostMachine } from './machines.ts';
import { Receiver } from './receiver.ts';

const MEMORY_MB = 256;
/** For emulated guests on a busy machine, and the leases of what has died. */
const SLOW_MS = 240_000;

const resources = new AsyncDisposableStack();
let fleet: FleetOfMachines;
let receiver: Receiver;
let one: RestClient;
let two: RestClient;

/** A sandbox with a program that must keep running. */
interface Guest {
  readonly id: string;
  readonly host: HostMachine;
  /** Of the program: its pid in the guest, and when it started. */
  readonly program: string;
}
/** One on each host, in their order. */
const guests: Guest[] = [];

beforeAll(async () => {
  fleet = resources.use(
    await FleetOfMachines.start({ vcpus: 1, memoryMiB: MEMORY_MB, diskMiB: DEFAULT_DISK_MIB }),
  );
  receiver = resources.use(await Receiver.open(fleet.network.address));
  one = await firstControlPlane().client();
  // The key of the one is good for the other: it is in the database.
  two = await (fleet.controlPlanes[1] as ControlPlaneMachine).client();
  resources.defer(destroyAll);
  const hook = { name: 'all', url: receiver.url, event_types: ['sandbox.*'] };
  expect(await one.send('POST', '/v1/webhooks', hook)).toMatchObject({ status: 201 });
});
afterAll(() => resources.disposeAsync());

let isFailed = false;
afterEach(({ task }) => {
  if (isFailed || task.result?.state !== 'fail') return;
  isFailed = true;
  process.stderr.write(`${fleet.logs()}\n`);
});

const firstControlPlane = () => fleet.controlPlanes[0] as ControlPlaneMachine;
const guestOn = (index: number) => guests[index] as Guest;

function accepted({ status, body }: RestResponse): unknown {
  expect([200, 201, 202, 204], JSON.stringify(body)).toContain(status);
  return body;
}

async function post(by: RestClient, path: string, body?: object): Promise<unknown> {
  return accepted(await by.send('POST', `/v1${path}`, body));
}

/** Creates a sandbox on this host: the others take none meanwhile. */
async function createOn(host: HostMachine, by: RestClient): Promise<string> {
  const others = fleet.hosts.filter((each) => each !== host);
  const drain = async (draining: boolean) => {
    for (const { id } of others) accepted(await one.send('PATCH', `/v1/hosts/${id}`, { draining }));
  };
  await drain(true);
  const { id } = rest.sandboxSchema.parse(await post(by, '/sandboxes', { memory_mb: MEMORY_MB }));
  await drain(false);
  expect((await host.sandboxes()).get(id)).toBe('running');
  return id;
}

async function shell(by: RestClient, id: string, script: string): Promise<string> {
  const request = { cmd: 'sh', args: ['-c', script] };
  const { stdout, exit_code } = rest.execResultSchema.parse(
    await post(by, `/sandboxes/${id}/exec`, request),
  );
  expect(exit_code, script).toBe(0);
  return stdout.trim();
}

const PROGRAM = 'pid=$(pgrep -nx sleep) && echo $pid $(cut -d" " -f22 /proc/$pid/stat)';

async function expectToRun({ id, program }: Guest, by: RestClient): Promise<void> {
  expect(await shell(by, id, PROGRAM)).toBe(program);
}

async function hasStatus(id: string, status: rest.Sandbox['status'], by = two): Promise<void> {
  await until(async () => (await by.sandbox(id)).status === status, SLOW_MS);
}

async function onBoth(check: (by: RestClient) => Promise<void>): Promise<void> {
  for (const by of [one, two]) await check(by);
}

test('sandboxes are created on each host by either control plane, and used by the other', async () => {
  for (const [index, host] of fleet.hosts.entries()) {
    const [by, other] = index % 2 === 0 ? [one, two] : [two, one];
    const id = await createOn(host, by);
    await post(other, `/sandboxes/${id}/exec`, {
      cmd: 'sleep',
      args: ['infinity'],
      background: true,
    });
    guests.push({ id, host, program: await shell(other, id, PROGRAM) });
  }
  await onBoth(async (by) => {
    for (const guest of guests) await expectToRun(guest, by);
  });
});

test('one control plane pauses and the other resumes, on every host', async () => {
  await Promise.all(
    guests.map(async (guest, index) => {
      const [by, other] = index % 2 === 0 ? [two, one] : [one, two];
      await post(by, `/sandboxes/${guest.id}/pause`);
      expect(await vmmsOf(guest.id)).toEqual([]);
      await post(other, `/sandboxes/${guest.id}/resume`);
      await expectToRun(guest, by);
    }),
  );
});

test('a snapshot by one is created from by the other, where it is; so is a fork', async () => {
  const [source, other] = [guestOn(0), guestOn(1)];
  await post(two, '/snapshots', { sandbox_id: source.id, name: 'kept' });
  const copy = rest.sandboxSchema.parse(await post(one, '/sandboxes', { template: 'kept' }));
  expect((await source.host.sandboxes()).get(copy.id)).toBe('running');
  expect(await shell(two, copy.id, PROGRAM)).toBe(source.program);
  accepted(await two.send('DELETE', `/v1/sandboxes/${copy.id}`));
  const fork = rest.forkResultSchema.parse(await post(two, `/sandboxes/${other.id}/fork`));
  const child = fork.children[0]?.sandbox?.id ?? '';
  expect((await other.host.sandboxes()).get(child)).toBe('running');
  expect(await shell(one, child, PROGRAM)).toBe(other.program);
  await post(one, `/sandboxes/${child}/pause`);
  await post(one, `/sandboxes/${source.id}/resume`);
});

test('a host without a network, and a control plane that is killed: the rest goes on, and both come back', async () => {
  const [first, second, away] = [guestOn(0), guestOn(1), guestOn(2)];
  receiver.isDown = true;
  const [vmm] = await vmmsOf(away.id);
  await fleet.network.cut(away.host.namespace);

  // Killed in the middle of a pause and of a fork.
  const lost = [
    one.send('POST', `/v1/sandboxes/${first.id}/pause`),
    one.send('POST', `/v1/sandboxes/${second.id}/fork`, { count: 1 }),
  ].map((response) => response.catch(() => undefined));
  await until(async () => (await idsIn('pausing')).length + (await idsIn('creating')).length === 2);
  const [copy = ''] = await idsIn('creating');
  await firstControlPlane().kill();
  expect(await Promise.all(lost)).toEqual([undefined, undefined]);
  await expectToRun(second, two);

  await hasStatus(away.id, 'unreachable');
  await until(async () => (await hostStatus(away.host, two)) === 'unreachable', SLOW_MS);
  expect(await two.refused('POST', `/v1/sandboxes/${away.id}/pause`)).toMatchObject({
    status: 503,
  });
  expect(await vmmsOf(away.id)).toEqual([vmm]);

  await fleet.startControlPlane(firstControlPlane());
  await fleet.network.join(away.host.namespace);
  await onBoth(async (by) => {
    await until(async () => (await hostStatus(away.host, by)) === 'online', SLOW_MS);
    await hasStatus(away.id, 'running', by);
    await expectToRun(away, by);
  });
  expect(await vmmsOf(away.id)).toEqual([vmm]);

  // What the one had begun has been finished by the other, from what the hosts say.
  await hasStatus(first.id, 'paused');
  await until(async () => (await inProgress()) === 0, SLOW_MS);
  const { status } = await one.sandbox(copy);
  expect(['running', 'error']).toContain(status);
  if (status === 'running') expect(await shell(one, copy, PROGRAM)).toBe(second.program);
  accepted(await one.send('DELETE', `/v1/sandboxes/${copy}`));
  await post(one, `/sandboxes/${first.id}/resume`);
  await expectToRun(first, two);
});

async function hostStatus({ id }: HostMachine, by: RestClient): Promise<string> {
  return rest.hostSchema.parse((await by.send('GET', `/v1/hosts/${id}`)).body).status;
}

async function idsIn(state: rest.Sandbox['status']): Promise<string[]> {
  const { rows } = await fleet.database.query('select id from sandboxes where state = $1', [state]);
  return rows.map(({ id }) => id);
}

async function inProgress(): Promise<number> {
  const { rows } = await fleet.database.query(
    `select resource from operations union all select id from templates where state <> 'ready'`,
  );
  return rows.length;
}

test('an agent that is killed is started again: its sandboxes have kept running', async () => {
  const guest = guestOn(1);
  const vmms = await vmmsOf(guest.id);
  expect(vmms).toHaveLength(1);
  await guest.host.kill();
  await hasStatus(guest.id, 'unreachable');
  await guest.host.start();
  await onBoth(async (by) => {
    await hasStatus(guest.id, 'running', by);
    await expectToRun(guest, by);
  });
  expect(await vmmsOf(guest.id)).toEqual(vmms);
});

test('every sandbox is on its host only, in one VM if it runs, and everything is recorded once', async () => {
  receiver.isDown = false;
  const known = await fleet.known();
  expect(await disagreements(fleet.database, known)).toEqual([]);
  const all = [...known.values()].flatMap((sandboxes) => [...sandboxes]);
  expect(new Set(all.map(([id]) => id)).size).toBe(all.length);
  for (const [id, state] of all) {
    expect(await vmmsOf(id), id).toHaveLength(state === 'running' ? 1 : 0);
  }
  await destroyAll();
  expect([...(await fleet.known()).values()].flatMap((sandboxes) => [...sandboxes])).toEqual([]);
  const { database } = fleet;
  await until(async () => {
    const { rows } = await database.query('select from outbox where delivered_at is null');
    return rows.length === 0;
  });
  expect(await inexactAudit(database)).toEqual([]);
  expect(await unrecordedChanges(database)).toEqual([]);
  expect(await inexactUsage(database)).toEqual([]);
  await until(async () => {
    // As if the times had passed after which it is tried again.
    await database.query(
      `update webhook_deliveries set next_attempt_at = now()
       where state = 'pending' and next_attempt_at > now() + interval '2 seconds'`,
    );
    return (await undelivered(database, receiver)).length === 0;
  }, SLOW_MS).catch(() => undefined);
  expect(await undelivered(database, receiver)).toEqual([]);
  expect(receiver.refused).toBeGreaterThan(0);
});

async function destroyAll(): Promise<void> {
  const { rows } = await fleet.database.query(`select id from sandboxes where state <> 'stopped'`);
  await Promise.all(rows.map(({ id }) => two.send('DELETE', `/v1/sandboxes/${id}`)));
  await two.send('DELETE', '/v1/snapshots/kept');
}
