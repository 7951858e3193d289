/** Several control planes on one database: each host is reconciled by one of them. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Transport } from '@connectrpc/connect';
import { type rest, TorporError } from '@torpor/protocol';
import { Fleet, type Member, MemoryAgent, MemoryHost, until } from '@torpor/testkit/control-plane';
import { afterEach, beforeEach, expect, test } from 'vitest';

let fleet: Fleet;
beforeEach(async () => {
  fleet = await Fleet.open();
});
afterEach(() => fleet[Symbol.asyncDispose]());

/** The control plane that reconciles a host. */
async function reconcilerOf(hostId = 'local'): Promise<string | null> {
  const { rows } = await fleet.database.query('select reconciled_by from hosts where id = $1', [
    hostId,
  ]);
  return rows[0]?.reconciled_by ?? null;
}

async function claimed(hostId?: string): Promise<string> {
  await until(async () => (await reconcilerOf(hostId)) !== null);
  return (await reconcilerOf(hostId)) ?? '';
}

/** Has the agent report that a VMM died, and waits until that is recorded; once. */
async function expectReconciled(member: Member, id: string): Promise<void> {
  fleet.agent.report(id, 'error', 'The VMM was killed by signal 9.');
  await until(async () => (await member.get(id)).status === 'error');
  const kinds = (await fleet.events(id)).map(({ kind }) => kind);
  expect(kinds.filter((kind) => kind === 'sandbox.fail')).toHaveLength(1);
}

test('one of three control planes reconciles a host, and another when it has died', async () => {
  await using first = await fleet.joinSeverable();
  const leader = await claimed();
  const [second, third] = [await fleet.join(), await fleet.join()];
  const [one, other] = [await second.create(), await third.create()];
  await expectReconciled(second, one.id);
  expect(await reconcilerOf()).toBe(leader);
  expect(fleet.agent.watchers).toBe(1);

  first.links.sever();
  await until(async () => ![leader, null].includes(await reconcilerOf()));
  await until(() => fleet.agent.watchers === 1);
  await expectReconciled(third, other.id);
});

test('a control plane that loses only its database stops by itself', async () => {
  await using first = await fleet.joinSeverable({ hostTransport: fleet.agent.transport });
  const leader = await claimed();
  const second = await fleet.join();
  const { id } = await second.create();
  first.links.sever();
  await until(async () => ![leader, null].includes(await reconcilerOf()));
  await until(() => fleet.log().includes('Claims of hosts have expired'));
  await until(() => fleet.agent.watchers === 1);
  await expectReconciled(second, id);
});

test('a control plane that hung for longer than its lease leaves its hosts to the others', async () => {
  const members = [await fleet.join(), await fleet.join()] as const;
  for (let round = 0; round < 3; round++) {
    const { id } = await members[0].create();
    // As any other control plane does once the lease has expired.
    await fleet.database.query('delete from control_planes where id = $1', [await claimed()]);
    await claimed();
    await until(() => fleet.agent.watchers === 1);
    await expectReconciled(members[1], id);
  }
});

test('a control plane that is closed leaves its hosts at once', async () => {
  const first = await fleet.join({ hostTiming: { claimMs: 600_000 } });
  const leader = await claimed();
  const second = await fleet.join();
  const { id } = await second.create();
  await first.controlPlane.close();
  await until(async () => ![leader, null].includes(await reconcilerOf()));
  await expectReconciled(second, id);
  expect(await fleet.count('control_planes')).toBe(1);
});

test('a host that cannot be reached from one control plane is reconciled by another', async () => {
  const { transport: agent } = fleet.agent;
  let isCut = false;
  const refuseIfCut = () => {
    if (isCut) throw new TorporError('host_unavailable', 'No route.').toConnectError();
  };
  const transport: Transport = {
    unary: async (...call) => {
      refuseIfCut();
      return agent.unary(...call);
    },
    stream: async (...call) => {
      refuseIfCut();
      return agent.stream(...call);
    },
  };
  await fleet.join({ hostTransport: transport });
  const leader = await claimed();
  const second = await fleet.join();
  const { id } = await second.create();
  isCut = true;
  // Its open stream ends too.
  fleet.agent.becomeUnreachable();
  fleet.agent.becomeReachable();
  await until(async () => ![leader, null].includes(await reconcilerOf()));
  await until(async () => (await second.get(id)).status === 'running');
  await expectReconciled(second, id);
});

test('a host that hangs delays no other', async () => {
  const member = await fleet.joinAlone({ reconcilerTiming: { listIntervalMs: 100 } });
  const second = await fleet.joinAlone();
  const hosts: MemoryHost[] = [];
  try {
    for (const name of ['hanging', 'other']) {
      const response = await member.call('POST', '/hosts', { name });
      const host = await MemoryHost.make();
      hosts.push(host);
      await host.start((await response.json()) as rest.CreatedHost);
    }
    const [hanging, other] = hosts as [MemoryHost, MemoryHost];
    for (const { id } of hosts) await claimed(id);
    await until(() => hosts.every(({ agent }) => agent.watchers === 1));
    hanging.agent.limits.memoryMb = 0;
    const { id } = await member.create();
    const gate = Promise.withResolvers<void>();
    hanging.agent.askGate = gate.promise;
    const lists = hanging.agent.count('listSandboxes');
    await until(() => hanging.agent.count('listSandboxes') > lists);
    // No stream reports it: it is found by the list.
    Object.assign(other.agent.sandboxes.get(id) ?? {}, { status: 'error', reason: 'silent death' });
    await until(async () => (await second.get(id)).status === 'error');
    gate.resolve();
  } finally {
    for (const host of hosts) await host[Symbol.asyncDispose]();
  }
});

test('sandboxes of a server that was killed are unreachable through the others, and come back with it', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'torpor-killed-'));
  await using agent = await MemoryAgent.start();
  const watching = { heartbeatMs: 100, silenceMs: 1_000, silenceCheckMs: 100 };
  const member = await fleet.join({ hostTiming: watching });
  const options = {
    dataDir: directory,
    secretKey: await fleet.secretKey(),
    hostTiming: watching,
  };
  try {
    const killed = await fleet.joinSeverable(options, agent.transport);
    const kept = await killed.create();
    const destroyed = await killed.create();
    expect(agent.sandboxes.size).toBe(2);
    killed.links.sever();
    for (const { id } of [kept, destroyed]) {
      await until(async () => (await member.get(id)).status === 'unreachable');
    }
    expect((await member.call('DELETE', `/sandboxes/${destroyed.id}`)).status).toBe(204);
    expect((await member.get(destroyed.id)).status).toBe('destroying');
    await killed[Symbol.asyncDispose]();
    expect(agent.sandboxes.size).toBe(2);
    await using _again = await fleet.joinSeverable(options, agent.transport);
    await until(async () => (await member.get(kept.id)).status === 'running');
    await until(async () => (await member.get(destroyed.id)).status === 'stopped');
    expect([...agent.sandboxes.keys()]).toEqual([kept.id]);
  } finally {
    await rm(directory, { recursive: true });
  }
});

test('a host that is back gets sandboxes also from control planes that do not reconcile it', async () => {
  // The one that reconciles it keeps doing so.
  const reconcilerTiming = { unreachableAfterMs: 600_000, reconnectMs: 20 };
  const member = await fleet.joinAlone({ reconcilerTiming });
  const members = [member, await fleet.joinAlone({ reconcilerTiming })];
  const response = await member.call('POST', '/hosts', { name: 'restarted' });
  await using host = await MemoryHost.make();
  await host.start((await response.json()) as rest.CreatedHost);
  const createAt = (each: Member) => each.call('POST', '/sandboxes', { memory_mb: 128 });
  for (const each of members) await until(async () => (await createAt(each)).ok);
  const { id } = await member.create();
  const { port } = new URL(`http://${host.address}`);
  await host.stop();
  for (const each of members) {
    expect((await each.call('POST', `/sandboxes/${id}/ping`)).status).toBe(503);
  }
  // At the same address: their connections stay.
  await host.start(undefined, { port: Number(port) });
  for (const each of members) await until(async () => (await createAt(each)).ok);
});
