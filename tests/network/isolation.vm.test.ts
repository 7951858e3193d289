import { mkdtemp, realpath, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { instanceTag } from '@torpor/agent/testing';
import { GUEST, newId } from '@torpor/protocol';
import {
  FORBIDDEN,
  INTERNET,
  type IsolationProbe,
  type ListenerEvent,
  type Outcome,
  type ProbeTarget,
  startIsolationProbe,
} from '@torpor/testkit/network';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { leftovers } from '../agent/agent-under-test.ts';
import { type AgentOnHost, startAgentOnHost } from './agent-on-host.ts';
import { GuestInVm } from './guest-in-vm.ts';

/*
 * What untrusted code can reach from inside a microVM. The rules are tested without one
 * beside the network code; here they apply to real guests, as an agent sets them up. One
 * guest was booted and has internet, the other was restored and has none.
 */

/** An expected response arrives at once, but the machine may be slow. */
const LONG_TIMEOUT_MS = 120_000;
/** If none is expected, this is waited in full. */
const SHORT_TIMEOUT_MS = 3_000;
const PORT = INTERNET[0].port;

const resources = new AsyncDisposableStack();
let dataDir: string;
let probe: IsolationProbe;
let agent: AgentOnHost;
let online: GuestInVm;
let offline: GuestInVm;

beforeAll(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'torpor-isolation-'));
  resources.defer(() => rm(dataDir, { recursive: true, force: true }));
  probe = resources.use(await startIsolationProbe());
  agent = resources.use(await startAgentOnHost(probe, dataDir));
  online = await createGuest({ denyInternet: false });
  offline = await createGuest({ denyInternet: true });
});
afterAll(() => resources.disposeAsync());

async function createGuest(request: { denyInternet: boolean }): Promise<GuestInVm> {
  const sandboxId = newId('sandbox');
  const { client } = agent;
  const { hostIp } = await client.createSandbox({
    sandboxId,
    vcpus: 1,
    memoryMb: 256,
    diskSizeMb: 1024,
    ...request,
  });
  if (hostIp === undefined) throw new Error('The sandbox has no address.');
  const guest = new GuestInVm(client, sandboxId, hostIp);
  await guest.listen(PORT);
  await guest.nextEvent(({ event }) => event === 'ready', LONG_TIMEOUT_MS);
  return guest;
}

const at = (address: string, port = PORT): ProbeTarget => ({ address, port });

/** The host's end of the link to the guest. */
function linkAddress({ hostAddress }: GuestInVm): string {
  const octets = hostAddress.split('.').map(Number);
  return [...octets.slice(0, 3), (octets[3] ?? 0) - 1].join('.');
}

/** What a guest must not reach on and around its host. */
function surroundings(own: GuestInVm, other: GuestInVm): Record<string, ProbeTarget> {
  return {
    'its gateway': at(GUEST.gateway),
    'the outside of its own slot': at(own.hostAddress),
    'the link of its slot': at(linkAddress(own)),
    'the link of another slot': at(linkAddress(other)),
    'the host agent': at(FORBIDDEN['host, public address'].address, agent.port),
    'envd of another guest': at(other.hostAddress, GUEST.envdPort),
    'a server of another guest': at(other.hostAddress),
  };
}

let barriers = 0;

/**
 * All events of all listeners until now. The host sends a last datagram to each listener:
 * when it has arrived, so has everything that was sent before.
 */
async function allEvents(): Promise<ListenerEvent[]> {
  const last = `barrier ${++barriers}`;
  await probe.visitFromHost({
    targets: [
      INTERNET[0],
      FORBIDDEN['host, public address'],
      at(online.hostAddress),
      at(offline.hostAddress),
    ],
    timeoutMs: LONG_TIMEOUT_MS,
    datagram: last,
  });
  const isLast = (event: ListenerEvent) => event.event === 'udp' && event.text === last;
  await probe.world.next(isLast);
  await probe.host.next(isLast);
  const inside = await Promise.all(
    [online, offline].map((guest) => guest.nextEvent(isLast, LONG_TIMEOUT_MS)),
  );
  return [...probe.world.events, ...probe.host.events, ...inside.flat()].filter(
    (event) => event.event !== 'udp' || !event.text.startsWith('barrier '),
  );
}

test('the host reaches both guests and all targets that they must not reach', async () => {
  const outcomes = await probe.visitFromHost({
    targets: [
      at(online.hostAddress),
      at(offline.hostAddress),
      ...INTERNET,
      ...Object.values(FORBIDDEN),
    ],
    timeoutMs: LONG_TIMEOUT_MS,
  });
  expect(outcomes.filter(({ reached }) => !reached)).toEqual([]);
});

test('nothing of the guests’ network is on the machine itself', async () => {
  const found = await leftovers(instanceTag(await realpath(dataDir)), dataDir);
  expect(found.filter((line) => /^(interfaces|routes|nftTables):/.test(line))).toEqual([]);
  expect(found.filter((line) => line.startsWith('namespaces:'))).not.toEqual([]);
});

describe.each(['online', 'offline'] as const)('a guest that is %s', (which) => {
  const own = () => (which === 'online' ? online : offline);
  const other = () => (which === 'online' ? offline : online);
  let before: ListenerEvent[];
  let internet: Outcome[];
  let forbidden: Record<string, Outcome>;
  let visitors: ListenerEvent[];

  // All together: in an emulated guest every program takes seconds to start.
  beforeAll(async () => {
    before = await allEvents();
    const kept = Object.entries({ ...FORBIDDEN, ...surroundings(own(), other()) });
    const outcomes = await own().visit([
      ...INTERNET.map((target) => ({ ...target, timeoutMs: LONG_TIMEOUT_MS })),
      ...kept.map(([, target]) => ({ ...target, timeoutMs: SHORT_TIMEOUT_MS })),
    ]);
    internet = outcomes.slice(0, INTERNET.length);
    forbidden = Object.fromEntries(
      outcomes.slice(INTERNET.length).map((outcome, index) => [kept[index]?.[0], outcome]),
    );
    visitors = (await allEvents()).filter(isNewSince(before));
  });

  test(`${which === 'online' ? 'reaches' : 'is refused'} the internet`, () => {
    expect(internet).toEqual(
      INTERNET.map(({ address }) =>
        which === 'online'
          ? { reached: true, response: { local: address, peer: probe.hostInternetAddress } }
          : { reached: false, code: 'EHOSTUNREACH' },
      ),
    );
  });

  test('reaches neither the host nor another guest nor private ranges nor metadata', () => {
    const reached = Object.keys(forbidden).filter((name) => forbidden[name]?.reached !== false);
    expect(reached).toEqual([]);
    expect(Object.keys(forbidden)).toHaveLength(Object.keys(FORBIDDEN).length + 7);
  });

  test('is seen only by the internet, with the address of the host', () => {
    const expected = which === 'online' ? INTERNET.map(({ address }) => address) : [];
    expect(visitors.toSorted(byLocalAddress)).toEqual(
      expected
        .map((local) => ({ event: 'tcp' as const, local, peer: probe.hostInternetAddress }))
        .toSorted(byLocalAddress),
    );
  });

  test('gains nothing as root by sending raw packets with other sources', async () => {
    const foreignSources = [
      '198.51.100.77',
      '127.0.0.1',
      GUEST.gateway,
      linkAddress(own()),
      own().hostAddress,
      other().hostAddress,
      probe.hostInternetAddress,
    ];
    const kept = [
      ...Object.values(FORBIDDEN),
      ...Object.values(surroundings(own(), other())),
    ].filter(({ address, port }) => port === PORT && !address.includes(':'));
    const forged = [GUEST.address, ...foreignSources].flatMap((source) =>
      [...kept, ...INTERNET]
        .filter((target) => source !== GUEST.address || kept.includes(target))
        .map((target) => ({ ...target, source, text: `${source} to ${target.address}` })),
    );
    // Shows that such packets are sent at all: the same with the guest's own address.
    const honest = { ...INTERNET[0], source: GUEST.address, text: `honest ${which}` };
    const earlier = await allEvents();
    await own().forge([...forged, honest]);
    const arrived = (await allEvents()).filter(isNewSince(earlier));
    expect(arrived).toEqual(
      which === 'online'
        ? ['frame', 'socket'].map((kind) => ({
            event: 'udp',
            peer: probe.hostInternetAddress,
            text: `${kind}: honest ${which}`,
          }))
        : [],
    );
  });
});

/** Filters new events: of equal ones, as many as there were before are omitted. */
function isNewSince(before: readonly ListenerEvent[]): (event: ListenerEvent) => boolean {
  const known = before.map((event) => JSON.stringify(event));
  return (event) => {
    const index = known.indexOf(JSON.stringify(event));
    if (index >= 0) known.splice(index, 1);
    return index < 0;
  };
}

function byLocalAddress(a: ListenerEvent, b: ListenerEvent): number {
  return JSON.stringify(a).localeCompare(JSON.stringify(b));
}

test('the agent leaves nothing on the host when it stops', async () => {
  await agent[Symbol.asyncDispose]();
  expect(await leftovers(instanceTag(await realpath(dataDir)), dataDir)).toEqual([]);
});
