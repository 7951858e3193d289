import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ipBatch, nftApply } from '@torpor/linux';
import { GUEST } from '@torpor/protocol';
import { openTestPool } from '@torpor/testkit/agent';
import {
  attachStandInGuest,
  FORBIDDEN,
  INTERNET,
  type IsolationProbe,
  type Outcome,
  type StandInGuest,
  startIsolationProbe,
  visitFrom,
} from '@torpor/testkit/network';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { NetworkSlot, SlotPool } from './slot.ts';

/** An expected response arrives at once; the limit allows for a slow machine. */
const LONG_TIMEOUT_MS = 20_000;
/** If none is expected, this is waited in full. */
const SHORT_TIMEOUT_MS = 1_500;

const resources = new AsyncDisposableStack();
let probe: IsolationProbe;
let pool: SlotPool;
let online: NetworkSlot;
let offline: NetworkSlot;
let onlineGuest: StandInGuest;
let offlineGuest: StandInGuest;

beforeAll(async () => {
  const directory = await mkdtemp(join(tmpdir(), 'torpor-isolation-'));
  resources.defer(() => rm(directory, { recursive: true }));
  probe = resources.use(await startIsolationProbe());
  const opened = resources.use(
    await openTestPool({ directory, hostNamespace: probe.hostNamespace }),
  );
  pool = opened.pool;
  online = await pool.acquire({ owner: 'sbonline', allowInternet: true });
  offline = await pool.acquire({ owner: 'sboffline', allowInternet: false });
  onlineGuest = resources.use(await attachStandInGuest(online));
  offlineGuest = resources.use(await attachStandInGuest(offline));
});

afterAll(() => resources.disposeAsync());

const envd = (slot: NetworkSlot) => ({ address: slot.hostAddress, port: GUEST.envdPort });
const linkAddress = (slot: NetworkSlot) => {
  const octets = slot.hostAddress.split('.').map(Number);
  return [...octets.slice(0, 3), (octets[3] ?? 0) - 1].join('.');
};
const unreached = (outcomes: readonly Outcome[]) => outcomes.map((outcome) => outcome.reached);

describe('the host', () => {
  test('reaches the services of each guest, which sees its gateway as the peer', async () => {
    const outcomes = await probe.visitFromHost({
      targets: [envd(online), envd(offline)],
      timeoutMs: LONG_TIMEOUT_MS,
    });
    const response = { local: GUEST.address, peer: GUEST.gateway };
    expect(outcomes).toEqual([
      { reached: true, response },
      { reached: true, response },
    ]);
  });

  test('reaches everything that the guests must not, so that no response means a rule', async () => {
    const outcomes = await probe.visitFromHost({
      targets: [...INTERNET, ...Object.values(FORBIDDEN)],
      timeoutMs: LONG_TIMEOUT_MS,
    });
    expect(outcomes.filter((outcome) => !outcome.reached)).toEqual([]);
  });

  test('lets only its own user connect to a guest', async () => {
    const [guest, world] = await Promise.all([
      probe.visitFromHost({ targets: [envd(online)], timeoutMs: SHORT_TIMEOUT_MS, uid: 65534 }),
      probe.visitFromHost({ targets: [INTERNET[0]], timeoutMs: LONG_TIMEOUT_MS, uid: 65534 }),
    ]);
    expect([...unreached(guest), ...unreached(world)]).toEqual([false, true]);
  });
});

describe('a guest with internet', () => {
  test('reaches it under the address of the host', async () => {
    const outcomes = await onlineGuest.visit({ targets: INTERNET, timeoutMs: LONG_TIMEOUT_MS });
    expect(outcomes).toEqual(
      INTERNET.map((target) => ({
        reached: true,
        response: { local: target.address, peer: probe.hostInternetAddress },
      })),
    );
  });

  test('cannot send with a source that is not its own', async () => {
    const spoofed = '198.51.100.77';
    await ipBatch([`addr add ${spoofed}/32 dev ${GUEST.interfaceName}`], {
      namespace: onlineGuest.namespace,
    });
    const shared = { targets: [INTERNET[0]], timeoutMs: SHORT_TIMEOUT_MS };
    await onlineGuest.visit({ ...shared, sourceAddress: spoofed, datagram: 'spoofed' });
    await onlineGuest.visit({ ...shared, datagram: 'honest' });
    // Datagrams on one path keep their order: once the later one has arrived, the earlier was
    // dropped.
    await probe.world.next((event) => event.event === 'udp' && event.text === 'honest');
    expect(probe.world.events).not.toContainEqual(expect.objectContaining({ text: 'spoofed' }));
  });
});

describe('a guest without internet', () => {
  test('is refused at once', async () => {
    const outcomes = await offlineGuest.visit({ targets: INTERNET, timeoutMs: LONG_TIMEOUT_MS });
    expect(outcomes).toEqual(INTERNET.map(() => ({ reached: false, code: 'EHOSTUNREACH' })));
  });

  test('sends no datagram to it either', async () => {
    const shared = { targets: [INTERNET[0]], timeoutMs: SHORT_TIMEOUT_MS };
    await offlineGuest.visit({ ...shared, datagram: 'from offline' });
    await onlineGuest.visit({ ...shared, datagram: 'from online' });
    await probe.world.next((event) => event.event === 'udp' && event.text === 'from online');
    expect(probe.world.events).not.toContainEqual(
      expect.objectContaining({ text: 'from offline' }),
    );
  });
});

describe.each(['online', 'offline'] as const)('a guest that is %s', (which) => {
  const guest = () => (which === 'online' ? onlineGuest : offlineGuest);
  const own = () => (which === 'online' ? online : offline);
  const other = () => (which === 'online' ? offline : online);

  test.each(Object.entries(FORBIDDEN))('does not reach %s', async (_what, target) => {
    const before = { world: probe.world.events.length, host: probe.host.events.length };
    const outcomes = await guest().visit({ targets: [target], timeoutMs: SHORT_TIMEOUT_MS });
    expect(unreached(outcomes)).toEqual([false]);
    expect(probe.world.events.slice(before.world)).toEqual([]);
    expect(probe.host.events.slice(before.host)).toEqual([]);
  });

  test('does not reach the host on either link, nor the namespace around it', async () => {
    const before = probe.host.events.length;
    const addresses = [linkAddress(own()), linkAddress(other()), own().hostAddress, GUEST.gateway];
    const outcomes = await guest().visit({
      targets: addresses.map((address) => ({ address, port: 8080 })),
      timeoutMs: SHORT_TIMEOUT_MS,
    });
    expect(unreached(outcomes)).toEqual(addresses.map(() => false));
    expect(probe.host.events.slice(before)).toEqual([]);
  });

  test('does not reach another guest', async () => {
    const neighbour = which === 'online' ? offlineGuest : onlineGuest;
    const before = neighbour.service.events.length;
    const outcomes = await guest().visit({ targets: [envd(other())], timeoutMs: SHORT_TIMEOUT_MS });
    expect(unreached(outcomes)).toEqual([false]);
    expect(neighbour.service.events.slice(before)).toEqual([]);
  });
});

test('a guest of another instance reaches what its own operator allows, and no guest of this one', async () => {
  await using own = new AsyncDisposableStack();
  const directory = await mkdtemp(join(tmpdir(), 'torpor-isolation-'));
  own.defer(() => rm(directory, { recursive: true }));
  const { hostNamespace } = probe;
  const other = own.use(
    await openTestPool({
      directory,
      hostNamespace,
      uplinkInterface: 'uplink0',
      deniedRanges: [`${INTERNET[1].address}/32`],
    }),
  );
  const slot = await other.pool.acquire({ owner: 'sbother', allowInternet: true });
  const guest = own.use(await attachStandInGuest(slot));
  const before = onlineGuest.service.events.length;
  const outcomes = await guest.visit({ targets: INTERNET, timeoutMs: LONG_TIMEOUT_MS });
  expect(outcomes).toMatchObject([{ reached: true }, { reached: false, code: 'EHOSTUNREACH' }]);
  const request = { targets: [envd(online)], timeoutMs: SHORT_TIMEOUT_MS };
  expect(unreached(await guest.visit(request))).toEqual([false]);
  expect(onlineGuest.service.events.slice(before)).toEqual([]);
});

test('no guest uses an interface that is not the uplink', async () => {
  await using own = new AsyncDisposableStack();
  const directory = await mkdtemp(join(tmpdir(), 'torpor-isolation-'));
  own.defer(() => rm(directory, { recursive: true }));
  const { hostNamespace } = probe;
  const other = own.use(
    await openTestPool({ directory, hostNamespace, uplinkInterface: 'elsewhere0' }),
  );
  const slot = await other.pool.acquire({ owner: 'sbother', allowInternet: true });
  const guest = own.use(await attachStandInGuest(slot));
  const outcomes = await guest.visit({ targets: INTERNET, timeoutMs: LONG_TIMEOUT_MS });
  expect(outcomes).toEqual(INTERNET.map(() => ({ reached: false, code: 'EHOSTUNREACH' })));
});

test('a neighbour of the host that routes to the slots through it reaches no guest', async () => {
  const route = `${online.hostAddress} via ${probe.hostInternetAddress}`;
  await ipBatch([`route add ${route}`], { namespace: probe.worldNamespace });
  const before = onlineGuest.service.events.length;
  const request = { targets: [envd(online)], timeoutMs: SHORT_TIMEOUT_MS };
  expect(unreached(await visitFrom(probe.worldNamespace, request))).toEqual([false]);
  expect(onlineGuest.service.events.slice(before)).toEqual([]);
});

describe('after the ruleset of the host was flushed', () => {
  beforeAll(() => nftApply('flush ruleset', { namespace: probe.hostNamespace }));

  test('private ranges, other guests and the link are still out of reach', async () => {
    const { LAN, metadata } = FORBIDDEN;
    const link = { address: linkAddress(online), port: LAN.port };
    const before = { world: probe.world.events.length, host: probe.host.events.length };
    const outcomes = await onlineGuest.visit({
      targets: [LAN, metadata, FORBIDDEN['host, LAN address'], link, envd(offline)],
      timeoutMs: SHORT_TIMEOUT_MS,
    });
    expect(unreached(outcomes)).toEqual([false, false, false, false, false]);
    expect(probe.world.events.slice(before.world)).toEqual([]);
    expect(probe.host.events.slice(before.host)).toEqual([]);
  });

  test('a check restores it', async () => {
    expect(await pool.checkFirewall()).toBe('repaired');
    expect(await pool.checkFirewall()).toBe('intact');
    const [internet] = await onlineGuest.visit({ targets: INTERNET, timeoutMs: LONG_TIMEOUT_MS });
    const [denied, host] = await offlineGuest.visit({
      targets: [INTERNET[0], FORBIDDEN['host, public address']],
      timeoutMs: SHORT_TIMEOUT_MS,
    });
    expect([internet?.reached, denied?.reached, host?.reached]).toEqual([true, false, false]);
  });
});
