import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { ipBatch, runInNamespace } from '@torpor/linux';
import type { Outcome, ProbeRequest, ProbeTarget } from './probe-request.ts';

/**
 * A simulated network in two namespaces, so that a test of isolation sends no packet to a real
 * network: one acts as the host, on which the host agent runs or works, the other as
 * everything that the host can reach. A listener responds on each address of both.
 *
 *     guest ─ slot ─ host namespace (uplink0) ══ world namespace (internet, LAN, metadata)
 */

export type ListenerEvent =
  | { readonly event: 'ready' }
  | { readonly event: 'tcp'; readonly local: string; readonly peer: string }
  | { readonly event: 'udp'; readonly peer: string; readonly text: string };

/** The port of all listeners of the probe. */
const PORT = 8080;
const target = (address: string): ProbeTarget => ({ address, port: PORT });

/** What a guest may reach when it has internet. The second is behind the first, the host's router. */
export const INTERNET = [target('203.0.113.10'), target('198.51.100.5')] as const;

/** What no guest may reach, with or without internet. */
export const FORBIDDEN = {
  'host, public address': target('203.0.113.2'),
  'host, LAN address': target('192.168.77.2'),
  LAN: target('192.168.77.10'),
  'private 10/8': target('10.99.0.5'),
  'private 172.16/12': target('172.20.0.5'),
  'carrier-grade NAT': target('100.64.9.9'),
  metadata: target('169.254.169.254'),
  'metadata, Azure': target('168.63.129.16'),
  reserved: target('240.0.0.5'),
  IPv6: target('2001:db8:1::10'),
} as const;

export interface IsolationProbe extends AsyncDisposable {
  /** Name of the namespace that acts as the host. */
  readonly hostNamespace: string;
  /** Name of the namespace that acts as the world, a neighbour of the host. */
  readonly worldNamespace: string;
  /** The source address that the internet sees: the host's. */
  readonly hostInternetAddress: string;
  /** The listener of the world, with its events. */
  readonly world: Listener;
  /** The listener on the host, with its events. */
  readonly host: Listener;
  /** The program and arguments that run a program on the probe's host. */
  onHost(program: string, args: readonly string[]): [string, string[]];
  /** Visits the targets from the host itself. */
  visitFromHost(request: ProbeRequest): Promise<Outcome[]>;
}

/** Starts the world; disposing of it removes everything. Needs root. */
export async function startIsolationProbe(): Promise<IsolationProbe> {
  await using stack = new AsyncDisposableStack();
  const tag = randomBytes(3).toString('hex');
  const hostNamespace = await makeNamespace(stack, `tpt-host-${tag}`);
  const worldNamespace = await makeNamespace(stack, `tpt-up-${tag}`);
  await ipBatch(
    [
      'link set lo up',
      `link add name uplink0 type veth peer name host0 netns ${worldNamespace}`,
      'addr add 203.0.113.2/24 dev uplink0',
      'addr add 192.168.77.2/24 dev uplink0',
      'addr add 2001:db8:1::2/64 dev uplink0 nodad',
      'link set uplink0 up',
      'route add default via 203.0.113.10',
      'route add 169.254.169.254 dev uplink0',
    ],
    { namespace: hostNamespace },
  );
  const lone = ['198.51.100.5', '10.99.0.5', '172.20.0.5', '100.64.9.9', '240.0.0.5'];
  await ipBatch(
    [
      'link set lo up',
      'addr add 203.0.113.10/24 dev host0',
      'addr add 192.168.77.10/24 dev host0',
      'addr add 2001:db8:1::10/64 dev host0 nodad',
      ...[...lone, '169.254.169.254', '168.63.129.16'].map((ip) => `addr add ${ip}/32 dev host0`),
      'link set host0 up',
    ],
    { namespace: worldNamespace },
  );
  const world = stack.use(await startListener(worldNamespace, PORT));
  const host = stack.use(await startListener(hostNamespace, PORT));
  const resources = stack.move();
  return {
    hostNamespace,
    worldNamespace,
    hostInternetAddress: '203.0.113.2',
    world,
    host,
    onHost: (program, args) => [
      'nsenter',
      [`--net=/run/netns/${hostNamespace}`, '--', program, ...args],
    ],
    visitFromHost: (request) => visitFrom(hostNamespace, request),
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  };
}

async function makeNamespace(stack: AsyncDisposableStack, name: string): Promise<string> {
  await ipBatch([`netns add ${name}`]);
  stack.defer(() => ipBatch([`netns del ${name}`]));
  return name;
}

/** Visits the targets from a namespace, all at once; the outcomes are in the order of the targets. */
export async function visitFrom(namespace: string, request: ProbeRequest): Promise<Outcome[]> {
  const client = `${import.meta.dirname}/probe-client.ts`;
  return JSON.parse(
    await runInNamespace(namespace, process.execPath, [client, JSON.stringify(request)]),
  );
}

/** A running `listener.ts`. */
export class Listener implements AsyncDisposable {
  readonly events: ListenerEvent[] = [];
  readonly #child: ChildProcess;
  readonly #watchers = new Set<() => void>();

  constructor(child: ChildProcess) {
    this.#child = child;
    if (child.stdout === null) throw new Error('The listener has no standard output.');
    createInterface({ input: child.stdout }).on('line', (line) => {
      this.events.push(JSON.parse(line));
      for (const watcher of this.#watchers) watcher();
    });
    child.on('close', () => {
      for (const watcher of this.#watchers) watcher();
    });
  }

  /** Resolves to the first event, past or future, that fits. Rejects if the listener exits before. */
  async next(fits: (event: ListenerEvent) => boolean): Promise<ListenerEvent> {
    for (;;) {
      const found = this.events.find(fits);
      if (found !== undefined) return found;
      if (this.#child.exitCode !== null || this.#child.signalCode !== null) {
        throw new Error('The listener has exited.');
      }
      await new Promise<void>((resolve) => {
        const watcher = () => {
          this.#watchers.delete(watcher);
          resolve();
        };
        this.#watchers.add(watcher);
      });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const closed = once(this.#child, 'close');
    this.#child.kill('SIGKILL');
    await closed;
  }
}

/** Starts a listener on all addresses of a namespace, and waits until it listens. */
export async function startListener(namespace: string, port: number): Promise<Listener> {
  const child = spawn(
    'nsenter',
    [
      `--net=/run/netns/${namespace}`,
      '--',
      process.execPath,
      `${import.meta.dirname}/listener.ts`,
      `${port}`,
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  const listener = new Listener(child);
  await listener.next((event) => event.event === 'ready');
  return listener;
}
