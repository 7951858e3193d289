import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ipBatch, ipJson, nftApply, nftInetTable } from '@torpor/linux';
import { GUEST } from '@torpor/protocol';
import {
  listInstanceSlots,
  openTestPool,
  removeInstance,
  type TestPool,
  type TestPoolOptions,
  testInstance,
} from '@torpor/testkit/agent';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { forwardingObstacles, INTERNET_GROUP } from './host-firewall.ts';
import { GATEWAY_MAC_ADDRESS } from './layout.ts';
import type { NetworkSlot } from './slot.ts';

let resources: AsyncDisposableStack;
let hostNamespace: string;
let directory: string;

beforeEach(async () => {
  resources = new AsyncDisposableStack();
  directory = await mkdtemp(join(tmpdir(), 'torpor-slots-'));
  resources.defer(() => rm(directory, { recursive: true }));
  hostNamespace = `tpt-host-${testInstance()}`;
  await ipBatch([`netns add ${hostNamespace}`]);
  resources.defer(() => ipBatch([`netns del ${hostNamespace}`]));
});

afterEach(() => resources.disposeAsync());

async function open(options: Partial<TestPoolOptions> = {}): Promise<TestPool> {
  return resources.use(await openTestPool({ directory, hostNamespace, ...options }));
}

const namespaceExists = (slot: { namespace: string }) => existsSync(`/run/netns/${slot.namespace}`);
const linkName = (opened: TestPool, slot: NetworkSlot) => `tp${opened.instance}v${slot.index}`;
const table = (opened: TestPool) =>
  nftInetTable(`torpor_${opened.instance}`, { namespace: hostNamespace });
const owners = (opened: TestPool) =>
  opened.journal.entries().map(({ owner, resource }) => [owner, resource]);

async function routes(): Promise<string[]> {
  const list = await ipJson(['-4', 'route', 'show'], { namespace: hostNamespace });
  return (list as { dst: string; type?: string }[]).map(({ type, dst }) => `${type} ${dst}`);
}

async function group(opened: TestPool, slot: NetworkSlot): Promise<string | undefined> {
  const list = await ipJson(['link', 'show', 'dev', linkName(opened, slot)], {
    namespace: hostNamespace,
  });
  return (list as { group?: string }[])[0]?.group;
}

async function until(condition: () => boolean): Promise<void> {
  const deadline = Date.now() + 30_000;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error('The condition did not become true.');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

test('slots are made ahead of time, and replaced when one is taken', async () => {
  const opened = await open({ poolSize: 2 });
  await until(() => opened.pool.stats().ready === 2);
  const slot = await opened.pool.acquire({ owner: 'sba', allowInternet: false });
  expect([0, 1]).toContain(slot.index);
  await until(() => opened.pool.stats().ready === 2);
  expect(opened.pool.stats()).toEqual({ ready: 2, inUse: 1, changing: 0, free: 997 });
  expect(owners(opened)).toContainEqual(['sba', { kind: 'network-slot', index: slot.index }]);
});

test('the tap has the same gateway address in every slot, and is owned by the user of the VMM', async () => {
  const { pool } = await open();
  const slot = await pool.acquire({
    owner: 'sba',
    allowInternet: false,
    vmmUser: { uid: 12_345, gid: 12_346 },
  });
  const [tap] = (await ipJson(['addr', 'show', 'dev', slot.tapDevice], {
    namespace: slot.namespace,
  })) as [
    {
      address: string;
      linkinfo: { info_data: object };
      addr_info: { local: string; prefixlen: number }[];
    },
  ];
  expect(tap.address).toBe(GATEWAY_MAC_ADDRESS);
  expect(tap.linkinfo.info_data).toMatchObject({
    type: 'tap',
    persist: true,
    user: 12_345,
    group: 12_346,
  });
  expect(tap.addr_info).toMatchObject([{ local: GUEST.gateway, prefixlen: GUEST.prefixLength }]);
});

test('concurrent callers get a slot each, until none is left', async () => {
  const { pool } = await open({ maxSlots: 4, poolSize: 2 });
  const requests = Array.from({ length: 5 }, (_, i) =>
    pool.acquire({ owner: `sb${i}`, allowInternet: false }),
  );
  const results = await Promise.allSettled(requests);
  const slots = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
  expect(new Set(slots.map((slot) => slot.index)).size).toBe(4);
  expect(new Set(slots.map((slot) => slot.hostAddress)).size).toBe(4);
  expect(results.find((result) => result.status === 'rejected')?.reason).toMatchObject({
    code: 'no_hosts_available',
  });
  const [first] = slots;
  if (first === undefined) throw new Error('No slot was given.');
  await pool.release(first);
  const again = await pool.acquire({ owner: 'sbx', allowInternet: false });
  expect(again.index).toBe(first.index);
});

test('a released slot is removed, and its index is the last to be used again', async () => {
  const opened = await open({ maxSlots: 3 });
  const slot = await opened.pool.acquire({ owner: 'sba', allowInternet: true });
  await opened.pool.release(slot);
  expect(namespaceExists(slot)).toBe(false);
  expect(await listInstanceSlots({ instance: opened.instance, hostNamespace })).toEqual([]);
  expect(owners(opened)).toEqual([]);
  const next = await opened.pool.acquire({ owner: 'sbb', allowInternet: false });
  expect(next.index).not.toBe(slot.index);
});

test('a second release does not affect the sandbox that has the slot meanwhile', async () => {
  const opened = await open({ maxSlots: 1 });
  const old = await opened.pool.acquire({ owner: 'sba', allowInternet: true });
  await Promise.all([opened.pool.release(old), opened.pool.release(old)]);
  const current = await opened.pool.acquire({ owner: 'sbb', allowInternet: false });
  expect(current.index).toBe(old.index);
  expect(await group(opened, current)).toBe('default');
  await opened.pool.release(old);
  await opened.pool.release({ ...old });
  expect(namespaceExists(current)).toBe(true);
  expect(owners(opened)).toEqual([['sbb', { kind: 'network-slot', index: current.index }]]);
});

test('nothing is created that the journal could not record', async () => {
  const opened = await open();
  await opened.journal[Symbol.asyncDispose]();
  await expect(opened.pool.acquire({ owner: 'sba', allowInternet: false })).rejects.toThrow(
    'journal',
  );
  expect(await listInstanceSlots({ instance: opened.instance, hostNamespace })).toEqual([]);
});

test('slots that a crash left half-made or pooled are removed at the next start', async () => {
  const first = await open({ poolSize: 1 });
  await until(() => first.pool.stats().ready === 1);
  await first.crash();
  const { instance } = first;
  await ipBatch([`netns add tp-${instance}-7`]);
  await ipBatch([`link add name tp${instance}v8 type veth peer name tp${instance}v9`], {
    namespace: hostNamespace,
  });
  expect(await listInstanceSlots({ instance, hostNamespace })).toEqual([0, 7, 8, 9]);
  const second = await open({ instance });
  expect(await listInstanceSlots({ instance, hostNamespace })).toEqual([]);
  expect(owners(second)).toEqual([]);
});

test('after a crash a running sandbox keeps its slot, address and permission', async () => {
  const first = await open();
  const slot = await first.pool.acquire({ owner: 'sba', allowInternet: true });
  await first.crash();
  await nftApply('flush ruleset', { namespace: hostNamespace });
  await nftApply('flush ruleset', { namespace: slot.namespace });
  const second = await open({ instance: first.instance });
  const adopted = await second.pool.adopt('sba', slot.index);
  expect({ ...adopted, lease: '' }).toEqual({ ...slot, lease: '' });
  expect(await group(second, adopted)).toBe(`${INTERNET_GROUP}`);
  expect(await nftInetTable('torpor', { namespace: slot.namespace })).toBeDefined();
  expect(await table(second)).toBeDefined();
  expect(await second.pool.adopt('sba', slot.index)).toEqual(adopted);
  await expect(second.pool.destroySlot(slot.index)).rejects.toMatchObject({ code: 'conflict' });
  const other = await second.pool.acquire({ owner: 'sbb', allowInternet: false });
  expect(other.index).not.toBe(slot.index);
  await expect(second.pool.destroySlot(other.index, 'sba')).rejects.toMatchObject({
    code: 'conflict',
  });
  await second.pool.destroySlot(other.index, 'sbb');
  expect(namespaceExists(other)).toBe(false);
  await second.pool.release(adopted);
  expect(namespaceExists(slot)).toBe(false);
});

test('an adopted slot whose link was removed gets a new one, without internet', async () => {
  const first = await open();
  const slot = await first.pool.acquire({ owner: 'sba', allowInternet: true });
  await first.crash();
  await ipBatch([`link del ${linkName(first, slot)}`], { namespace: hostNamespace });
  const second = await open({ instance: first.instance });
  const adopted = await second.pool.adopt('sba', slot.index);
  expect(adopted.hostAddress).toBe(slot.hostAddress);
  expect(await group(second, adopted)).toBe('default');
});

test('only its sandbox can adopt a slot, and one without a namespace cannot be adopted', async () => {
  const first = await open();
  const slot = await first.pool.acquire({ owner: 'sba', allowInternet: false });
  await first.crash();
  await ipBatch([`netns del ${slot.namespace}`]);
  const second = await open({ instance: first.instance });
  await expect(second.pool.adopt('sbb', slot.index)).rejects.toMatchObject({ code: 'conflict' });
  await expect(second.pool.adopt('sba', slot.index)).rejects.toMatchObject({
    code: 'guest_unreachable',
  });
  await second.pool.destroySlot(slot.index);
  await second.pool.destroySlot(slot.index);
  expect(owners(second)).toEqual([]);
});

test('a pooled slot that was removed is not handed out', async () => {
  const opened = await open({ poolSize: 1 });
  await until(() => opened.pool.stats().ready === 1);
  await ipBatch([`link del tp${opened.instance}v0`], { namespace: hostNamespace });
  const slot = await opened.pool.acquire({ owner: 'sba', allowInternet: false });
  expect(await group(opened, slot)).toBe('default');
  expect(namespaceExists(slot)).toBe(true);
});

test('a slot is created even if a killed agent left resources with its names', async () => {
  const opened = await open();
  const { instance } = opened;
  await ipBatch([`netns add tp-${instance}-0`]);
  await ipBatch([`link add name tp${instance}v1 type veth peer name tp${instance}v2`], {
    namespace: hostNamespace,
  });
  const slots = await Promise.all(
    ['sba', 'sbb', 'sbc'].map((owner) => opened.pool.acquire({ owner, allowInternet: true })),
  );
  for (const slot of slots) expect(await group(opened, slot)).toBe(`${INTERNET_GROUP}`);
});

test('handing out a slot restores a firewall that was flushed', async () => {
  const opened = await open();
  await nftApply('flush ruleset', { namespace: hostNamespace });
  await opened.pool.acquire({ owner: 'sba', allowInternet: false });
  expect(await table(opened)).toBeDefined();
  expect(await opened.pool.checkFirewall()).toBe('intact');
});

test('two instances on one machine have different addresses, and keep them', async () => {
  const [a, b] = await Promise.all(
    [testInstance(), testInstance()].map(async (instance) => {
      const own = await mkdtemp(join(tmpdir(), 'torpor-slots-'));
      resources.defer(() => rm(own, { recursive: true }));
      return { own, opened: await open({ instance, directory: own }) };
    }),
  );
  if (a === undefined || b === undefined) throw new Error('Two instances were opened.');
  const slots = [
    await a.opened.pool.acquire({ owner: 'sba', allowInternet: false }),
    await b.opened.pool.acquire({ owner: 'sbb', allowInternet: false }),
  ];
  expect(slots[0]?.hostAddress).not.toBe(slots[1]?.hostAddress);
  const before = await readFile(join(b.own, 'network.json'), 'utf8');
  await b.opened[Symbol.asyncDispose]();
  await open({ instance: b.opened.instance, directory: b.own });
  expect(await readFile(join(b.own, 'network.json'), 'utf8')).toBe(before);
});

test('addresses that the machine uses already are avoided', async () => {
  await ipBatch(['addr add 10.201.3.1/24 dev lo', 'route add unreachable 10.201.8.0/22'], {
    namespace: hostNamespace,
  });
  const { pool } = await open();
  const slot = await pool.acquire({ owner: 'sba', allowInternet: false });
  expect(slot.hostAddress).toBe('10.201.16.1');
});

test('a range without a free block is refused', async () => {
  await expect(open({ addressRange: '10.201.0.0/24', maxSlots: 200 })).rejects.toMatchObject({
    code: 'host_setup',
  });
  await expect(open({ addressRange: 'somewhere' })).rejects.toThrow(RangeError);
});

test('closing removes what is pooled, and keeps the rules while a slot is in use', async () => {
  const first = await open({ poolSize: 2 });
  const { instance } = first;
  const slot = await first.pool.acquire({ owner: 'sba', allowInternet: false });
  await first.pool.close();
  expect(await listInstanceSlots({ instance, hostNamespace })).toEqual([slot.index]);
  expect(await table(first)).toBeDefined();
  await expect(first.pool.acquire({ owner: 'sbb', allowInternet: false })).rejects.toMatchObject({
    code: 'host_unavailable',
  });
  await first.crash();
  const second = await open({ instance });
  await second.pool.destroySlot(slot.index);
  await second.pool.close();
  expect(await table(second)).toBeUndefined();
  expect(await routes()).toEqual([]);
});

test('removing an instance removes its slots in use, rules and routes, and no other instance', async () => {
  const kept = await open({ directory: join(directory) });
  const slot = await kept.pool.acquire({ owner: 'sba', allowInternet: false });
  const own = await mkdtemp(join(tmpdir(), 'torpor-slots-'));
  resources.defer(() => rm(own, { recursive: true }));
  const removed = await open({ directory: own, poolSize: 1 });
  await removed.pool.acquire({ owner: 'sbb', allowInternet: true });
  await removed.pool.close();
  const options = {
    instance: removed.instance,
    hostNamespace,
    stateFile: join(own, 'network.json'),
  };
  await removeInstance(options);
  await removeInstance(options);
  expect(await listInstanceSlots(options)).toEqual([]);
  expect(await table(removed)).toBeUndefined();
  expect((await routes()).filter((route) => route.startsWith('unreachable'))).toHaveLength(1);
  expect(namespaceExists(slot)).toBe(true);
  expect(await table(kept)).toBeDefined();
});

test('another firewall that drops forwarded packets is named', async () => {
  await open();
  expect(await forwardingObstacles(hostNamespace)).toEqual([]);
  await nftApply(
    'table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }\n}',
    { namespace: hostNamespace },
  );
  expect(await forwardingObstacles(hostNamespace)).toEqual(['ip filter FORWARD']);
});
