import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { ipBatch } from '@torpor/linux';
import { GUEST } from '@torpor/protocol';
import { openTestPool, type TestPool, testInstance } from '@torpor/testkit/agent';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { NetworkSlot } from './slot.ts';

/*
 * What happens to the host's TCP connections to a guest when it is paused, resumed and
 * destroyed. A namespace stands in for the guest: like the RAM of a paused one, it keeps the
 * guest's side of a connection while there is no slot.
 */

let resources: AsyncDisposableStack;
let hostNamespace: string;
let guestNamespace: string;
let opened: TestPool;

beforeEach(async () => {
  resources = new AsyncDisposableStack();
  const directory = await mkdtemp(join(tmpdir(), 'torpor-slots-'));
  resources.defer(() => rm(directory, { recursive: true }));
  [hostNamespace, guestNamespace] = [`tpt-host-${testInstance()}`, `tpt-guest-${testInstance()}`];
  await ipBatch([`netns add ${hostNamespace}`, `netns add ${guestNamespace}`]);
  resources.defer(() => ipBatch([`netns del ${guestNamespace}`, `netns del ${hostNamespace}`]));
  await ipBatch(['link set lo up'], { namespace: guestNamespace });
  opened = resources.use(await openTestPool({ directory, hostNamespace, maxSlots: 2 }));
});
afterEach(() => resources.disposeAsync());

const acquire = (owner: string, preferredIndex?: number) =>
  opened.pool.acquire({ owner, allowInternet: false, preferredIndex });

/** Connects the guest's namespace with a slot; releasing the slot disconnects it. */
async function attachGuest(slot: NetworkSlot): Promise<void> {
  const { tapDevice } = slot;
  const { address, gateway, prefixLength, macAddress, interfaceName } = GUEST;
  await ipBatch(
    [
      `link del ${tapDevice}`,
      `link add name ${tapDevice} type veth peer name ${interfaceName} address ${macAddress} netns ${guestNamespace}`,
      `addr add ${gateway}/${prefixLength} dev ${tapDevice}`,
      `link set ${tapDevice} up`,
    ],
    { namespace: slot.namespace },
  );
  await ipBatch(
    [
      `addr add ${address}/${prefixLength} dev ${interfaceName}`,
      `link set ${interfaceName} up`,
      `route add default via ${gateway}`,
    ],
    { namespace: guestNamespace },
  );
}

/** A program of one line in a namespace, and the lines that it prints. */
class Peer {
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #lines: AsyncIterator<string>;

  constructor(namespace: string, script: string, ...args: string[]) {
    const node = [process.execPath, '-e', script, ...args];
    this.#child = spawn('nsenter', [`--net=/run/netns/${namespace}`, '--', ...node]);
    this.#lines = createInterface(this.#child.stdout)[Symbol.asyncIterator]();
    resources.defer(async () => {
      if (this.#child.exitCode !== null) return;
      const exited = once(this.#child, 'exit');
      this.#child.kill('SIGKILL');
      await exited;
    });
  }

  say(line: string): void {
    this.#child.stdin.write(`${line}\n`);
  }

  async line(): Promise<string | undefined> {
    const { done, value } = await this.#lines.next();
    return done === true ? undefined : value;
  }
}

/** Echoes what it receives, and sends what it is given. */
const ECHO = `require('node:net').createServer((socket) => {
  socket.on('error', () => undefined);
  socket.pipe(socket);
  process.stdin.pipe(socket);
}).listen(8080, () => console.log('listening'));`;

/** Sends what it is given and prints the replies, or why the connection was closed. */
const CLIENT = `const socket = require('node:net').connect(8080, process.argv[1], () => console.log('connected'));
socket.on('data', (data) => process.stdout.write(data));
socket.on('error', (error) => console.log(error.code));
socket.on('close', () => process.exit());
process.stdin.pipe(socket);`;

async function connect(slot: NetworkSlot): Promise<Peer> {
  const client = new Peer(hostNamespace, CLIENT, slot.hostAddress);
  expect(await client.line()).toBe('connected');
  client.say('before');
  expect(await client.line()).toBe('before');
  return client;
}

async function connectedGuest(
  owner: string,
): Promise<{ slot: NetworkSlot; client: Peer; server: Peer }> {
  const slot = await acquire(owner);
  await attachGuest(slot);
  const server = new Peer(guestNamespace, ECHO);
  expect(await server.line()).toBe('listening');
  return { slot, server, client: await connect(slot) };
}

test('with the same slot a connection continues after the pause', async () => {
  const { slot, client } = await connectedGuest('sba');
  await opened.pool.release(slot);
  const again = await acquire('sba', slot.index);
  expect(again).toMatchObject({ index: slot.index, hostAddress: slot.hostAddress });
  await attachGuest(again);
  client.say('after');
  expect(await client.line()).toBe('after');
});

test('with the same slot the guest may send first', async () => {
  const { slot, client, server } = await connectedGuest('sba');
  await opened.pool.release(slot);
  await attachGuest(await acquire('sba', slot.index));
  server.say('news');
  expect(await client.line()).toBe('news');
  client.say('thanks');
  expect(await client.line()).toBe('thanks');
});

test('a connection to a paused guest is refused at once', async () => {
  const { slot } = await connectedGuest('sba');
  await opened.pool.release(slot);
  const late = new Peer(hostNamespace, CLIENT, slot.hostAddress);
  expect(await late.line()).toBe('EHOSTUNREACH');
});

test('what was sent during the pause arrives after it', async () => {
  const { slot, client } = await connectedGuest('sba');
  await opened.pool.release(slot);
  client.say('meanwhile');
  await attachGuest(await acquire('sba', slot.index));
  expect(await client.line()).toBe('meanwhile');
});

test('a connection is reset when another sandbox gets the address', async () => {
  const { slot, client } = await connectedGuest('sba');
  await opened.pool.release(slot);
  const others = await Promise.all([acquire('sbb'), acquire('sbc')]);
  expect(others.map(({ index }) => index)).toContain(slot.index);
  expect(await client.line()).toBe('ECONNABORTED');
  await opened.pool.release(others.find(({ index }) => index !== slot.index) ?? slot);
  expect((await acquire('sba', slot.index)).index).not.toBe(slot.index);
});

test('a connection is reset when the guest no longer exists, and not while the slot is in use', async () => {
  const { slot, client } = await connectedGuest('sba');
  await opened.pool.resetConnections(slot.index);
  client.say('still there');
  expect(await client.line()).toBe('still there');
  await opened.pool.release(slot);
  await opened.pool.resetConnections(slot.index);
  expect(await client.line()).toBe('ECONNABORTED');
});

test('a pooled slot is preferred too, and another is used if it is taken', async () => {
  const first = await acquire('sba');
  const second = await acquire('sbb', first.index);
  expect(second.index).not.toBe(first.index);
  await opened.pool.release(first);
  expect((await acquire('sbc', first.index)).index).toBe(first.index);
});
