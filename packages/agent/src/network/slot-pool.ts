import { randomUUID } from 'node:crypto';
import { CommandError, readNetSysctl, resetTcpConnections, writeNetSysctls } from '@torpor/linux';
import { TorporError } from '@torpor/protocol';
import type { Logger } from 'pino';
import { Semaphore } from '../concurrency/semaphore.ts';
import type { ResourceJournal } from '../journal/journal.ts';
import { claimAddressBlock, releaseAddressBlock } from './address-block.ts';
import { forwardingObstacles, HostFirewall, removeHostFirewall } from './host-firewall.ts';
import { formatIpv4Prefix, type Ipv4Prefix, parseIpv4Prefix, prefixSize } from './ipv4.ts';
import {
  type InstanceNames,
  instanceNames,
  type SlotLayout,
  slotLayout,
  TAP_DEVICE,
} from './layout.ts';
import type { NetworkSlot, SlotPool, SlotPoolStats, SlotRequest } from './slot.ts';
import { configureSlot, listSlots, makeSlot, removeSlot, repairSlot } from './slot-namespace.ts';

/** Owner in the journal of a pooled slot. */
const POOL_OWNER = 'pool';
/** Creating a slot runs a few short processes; more at a time would only delay the VMs. */
const CONCURRENT_CHANGES = 2;
const FIREWALL_CHECK_INTERVAL_MS = 30_000;
/** Five digits fit into the interface's name. */
const MAX_SLOTS = 99_999;

export interface SlotPoolOptions {
  /** Tag of the data directory: six characters of `[a-z0-9]`, unique on the machine. */
  readonly instance: string;
  readonly journal: ResourceJournal;
  /** The state file of the instance's block of addresses; its directory exists. */
  readonly stateFile: string;
  readonly logger: Logger;
  /** Slots kept ready; 4 if omitted. */
  readonly poolSize?: number;
  /** Slots at a time, ready ones included; 1000 if omitted. */
  readonly maxSlots?: number;
  /** Prefix from which instances take their blocks; 10.201.0.0/16 if omitted. */
  readonly addressRange?: string;
  /** Prefixes that guests may not reach, besides those that are not public. */
  readonly deniedRanges?: readonly string[];
  /** The only interface to the internet; if omitted, any that the routes use. */
  readonly uplinkInterface?: string;
  /** The namespace that stands in for the host; the caller's own if omitted. */
  readonly hostNamespace?: string;
}

type SlotState =
  | { readonly kind: 'changing' }
  | { readonly kind: 'ready' }
  | { readonly kind: 'reserved'; readonly owner: string }
  | { readonly kind: 'leased'; readonly owner: string; readonly slot: NetworkSlot };

/**
 * Opens the pool of an instance: claims its addresses, installs the host's firewall, switches
 * IPv4 forwarding on, removes slots that an earlier run had pooled or left half-made, and
 * starts to fill the pool. Slots of sandboxes in the journal are left for {@link
 * SlotPool.adopt} and
 * {@link SlotPool.destroySlot}. Throws `host_setup`.
 */
export async function openSlotPool(options: SlotPoolOptions): Promise<SlotPool> {
  const names = instanceNames(options.instance);
  const { hostNamespace, logger, journal } = options;
  const maxSlots = options.maxSlots ?? 1000;
  if (!Number.isInteger(maxSlots) || maxSlots < 1 || maxSlots > MAX_SLOTS) {
    throw new RangeError(`maxSlots is ${maxSlots}; it must be from 1 to ${MAX_SLOTS}.`);
  }
  const addressRange = parseIpv4Prefix(options.addressRange ?? '10.201.0.0/16');
  const deniedRanges = (options.deniedRanges ?? []).map(parseIpv4Prefix);
  try {
    const existing = await listSlots(names, hostNamespace);
    const owners = slotOwners(journal);
    const unowned = [...existing, ...owners.keys()].filter(
      (index) => (owners.get(index) ?? POOL_OWNER) === POOL_OWNER,
    );
    for (const index of new Set(unowned)) {
      await removeSlot(names, index, hostNamespace);
      await journal.forget({ kind: 'network-slot', index });
      owners.delete(index);
    }
    const block = await claimAddressBlock({
      stateFile: options.stateFile,
      addressRange,
      maxSlots,
      keep: existing.some((index) => owners.has(index)),
      hostNamespace,
    });
    const firewall = new HostFirewall(
      {
        names,
        block,
        deniedRanges: [addressRange, block, ...deniedRanges],
        uplinkInterface: options.uplinkInterface,
        uid: process.getuid?.() ?? 0,
      },
      hostNamespace,
    );
    await firewall.apply();
    await enableForwarding(hostNamespace, logger);
    logger.info({ block: formatIpv4Prefix(block), table: names.table }, 'Network ready');
    // A block that running slots use may be smaller than the one configured now.
    const slots = Math.min(maxSlots, prefixSize(block) / 2);
    const pool = new Pool(options, names, block, slots, firewall, owners);
    pool.start();
    return pool;
  } catch (error) {
    if (error instanceof CommandError) {
      throw new TorporError('host_setup', `The network cannot be set up: ${error.message}`, {
        cause: error,
        remedy:
          'Run `torpor doctor`, which tries what the network needs; `torpor setup` loads kernel modules that are not loaded.',
      });
    }
    throw error;
  }
}

function slotOwners(journal: ResourceJournal): Map<number, string> {
  const owners = new Map<number, string>();
  for (const { owner, resource } of journal.entries()) {
    if (resource.kind === 'network-slot') owners.set(resource.index, owner);
  }
  return owners;
}

async function enableForwarding(namespace: string | undefined, logger: Logger): Promise<void> {
  if ((await readNetSysctl('ipv4/ip_forward', { namespace })) === '0') {
    await writeNetSysctls({ 'ipv4/ip_forward': 1 }, { namespace });
    logger.warn('IPv4 forwarding (net.ipv4.ip_forward) switched on for this machine');
  }
  const obstacles = await forwardingObstacles(namespace);
  if (obstacles.length > 0) {
    logger.warn(
      { chains: obstacles },
      'Another firewall drops forwarded packets by default; sandboxes may be without internet',
    );
  }
}

class Pool implements SlotPool {
  readonly #options: SlotPoolOptions;
  readonly #names: InstanceNames;
  readonly #block: Ipv4Prefix;
  readonly #firewall: HostFirewall;
  readonly #poolSize: number;
  readonly #changing = new Semaphore(CONCURRENT_CHANGES);
  /** Every index that is not free. Changed synchronously, so that no two calls have the same slot. */
  readonly #states = new Map<number, SlotState>();
  /** In the order in which they became free: an address is reused as late as possible. */
  readonly #free: number[] = [];
  readonly #changes = new Set<Promise<unknown>>();
  #filling = 0;
  #firewallTimer: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(
    options: SlotPoolOptions,
    names: InstanceNames,
    block: Ipv4Prefix,
    maxSlots: number,
    firewall: HostFirewall,
    owners: ReadonlyMap<number, string>,
  ) {
    this.#options = options;
    this.#names = names;
    this.#block = block;
    this.#firewall = firewall;
    this.#poolSize = options.poolSize ?? 4;
    for (const [index, owner] of owners) this.#states.set(index, { kind: 'reserved', owner });
    for (let index = 0; index < maxSlots; index += 1) {
      if (!this.#states.has(index)) this.#free.push(index);
    }
  }

  start(): void {
    this.#firewallTimer = setInterval(() => {
      this.checkFirewall().catch((error: unknown) => {
        this.#options.logger.error(
          { err: error },
          'Firewall of the sandboxes could not be checked',
        );
      });
    }, FIREWALL_CHECK_INTERVAL_MS).unref();
    this.#fill();
  }

  async acquire(request: SlotRequest): Promise<NetworkSlot> {
    let { preferredIndex } = request;
    for (;;) {
      this.#assertOpen();
      const choice = this.#choose(preferredIndex);
      if (choice === undefined) {
        await this.#anyChange();
        continue;
      }
      const { index, isMade } = choice;
      this.#states.set(index, { kind: 'changing' });
      const work = isMade
        ? this.#lease(index, request)
        : this.#changing.run(() => this.#makeAndLease(index, request), { urgent: true });
      try {
        return await this.#track(this.#orDiscard(index, work));
      } catch (error) {
        // A pooled slot that was damaged meanwhile is replaced; each round consumes one.
        if (!isMade && index !== preferredIndex) throw error;
        preferredIndex = undefined;
      } finally {
        this.#fill();
      }
    }
  }

  async release(slot: NetworkSlot): Promise<void> {
    const state = this.#states.get(slot.index);
    if (state?.kind !== 'leased' || state.slot.lease !== slot.lease) return;
    await this.#takeDown(slot.index, state);
  }

  async adopt(owner: string, index: number): Promise<NetworkSlot> {
    this.#assertOpen();
    const state = this.#states.get(index);
    if (state?.kind === 'leased' && state.owner === owner) return state.slot;
    if (state?.kind !== 'reserved' || state.owner !== owner) {
      throw new TorporError('conflict', `Network slot ${index} does not belong to ${owner}.`);
    }
    this.#states.set(index, { kind: 'changing' });
    try {
      const slot = await this.#track(
        this.#changing.run(() => this.#repair(owner, index), { urgent: true }),
      );
      this.#states.set(index, { kind: 'leased', owner, slot });
      return slot;
    } catch (error) {
      this.#states.set(index, state);
      throw error;
    }
  }

  async destroySlot(index: number, owner?: string): Promise<void> {
    const state = this.#states.get(index);
    if (state === undefined) return;
    const isOwners = state.kind === 'leased' && state.owner === owner;
    if (state.kind !== 'reserved' && !isOwners) {
      throw new TorporError('conflict', `Network slot ${index} is in use.`);
    }
    await this.#takeDown(index, state);
  }

  async resetConnections(index: number): Promise<void> {
    const kind = this.#states.get(index)?.kind;
    if (kind === undefined || kind === 'ready') await this.#resetConnections(index);
  }

  async checkFirewall(): Promise<'intact' | 'repaired'> {
    const condition = await this.#firewall.ensure();
    if (condition === 'repaired') {
      this.#options.logger.warn(
        { table: this.#names.table },
        'Firewall of the sandboxes had been changed or removed, and was restored',
      );
    }
    return condition;
  }

  stats(): SlotPoolStats {
    const count = (...kinds: SlotState['kind'][]) =>
      [...this.#states.values()].filter((state) => kinds.includes(state.kind)).length;
    return {
      ready: count('ready'),
      inUse: count('leased', 'reserved'),
      changing: count('changing'),
      free: this.#free.length,
    };
  }

  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#firewallTimer);
    while (this.#changes.size > 0) await Promise.allSettled(this.#changes);
    const ready = [...this.#states].filter(([, state]) => state.kind === 'ready');
    await allDone(ready.map(([index, state]) => this.#takeDown(index, state)));
    if (this.#states.size > 0) return;
    await removeHostFirewall(this.#names, this.#options.hostNamespace);
    await releaseAddressBlock(this.#options.stateFile, this.#options.hostNamespace);
  }

  #assertOpen(): void {
    if (!this.#closed) return;
    throw new TorporError('host_unavailable', 'The host agent is shutting down.');
  }

  #layout(index: number): SlotLayout {
    return slotLayout(this.#names, this.#block, index);
  }

  #resetConnections(index: number): Promise<void> {
    const namespace = this.#options.hostNamespace;
    return resetTcpConnections(this.#layout(index).hostAddress, { namespace });
  }

  /** A free slot, the preferred one if possible; undefined: wait for a change. */
  #choose(preferred: number | undefined): { index: number; isMade: boolean } | undefined {
    if (preferred !== undefined) {
      const kind = this.#states.get(preferred)?.kind;
      if (kind === 'ready') return { index: preferred, isMade: true };
      if (kind === 'changing') return undefined;
      const position = this.#free.indexOf(preferred);
      if (position >= 0) {
        this.#free.splice(position, 1);
        return { index: preferred, isMade: false };
      }
    }
    for (const [index, { kind }] of this.#states) {
      if (kind === 'ready') return { index, isMade: true };
    }
    const index = this.#free.shift();
    return index === undefined ? undefined : { index, isMade: false };
  }

  /** Waits until a slot has changed its state. Throws `no_hosts_available` if none is changing. */
  async #anyChange(): Promise<void> {
    if (this.#changes.size === 0) throw noSlotLeft(this.#states.size);
    await Promise.race([...this.#changes].map((change) => change.catch(() => undefined)));
  }

  /** Keeps the promise among the pending changes until it is settled. */
  #track<T>(work: Promise<T>): Promise<T> {
    const tracked = work.finally(() => this.#changes.delete(tracked));
    this.#changes.add(tracked);
    return tracked;
  }

  /** Starts to create slots until enough are ready; a failure is retried at the next call. */
  #fill(): void {
    const { ready } = this.stats();
    while (!this.#closed && ready + this.#filling < this.#poolSize) {
      const index = this.#free.shift();
      if (index === undefined) return;
      this.#states.set(index, { kind: 'changing' });
      this.#filling += 1;
      this.#track(this.#changing.run(() => this.#fillOne(index))).catch((error: unknown) => {
        this.#options.logger.error({ err: error, index }, 'Network slot could not be made');
      });
    }
  }

  async #fillOne(index: number): Promise<void> {
    try {
      if (this.#closed) {
        this.#setFree(index);
        return;
      }
      await this.#orDiscard(index, this.#make(index));
      this.#states.set(index, { kind: 'ready' });
    } finally {
      this.#filling -= 1;
    }
  }

  async #make(index: number): Promise<void> {
    await this.#options.journal.record(POOL_OWNER, { kind: 'network-slot', index });
    await makeSlot(this.#names, this.#layout(index), this.#options.hostNamespace);
  }

  async #makeAndLease(index: number, request: SlotRequest): Promise<NetworkSlot> {
    await this.#make(index);
    return this.#lease(index, request);
  }

  async #lease(index: number, request: SlotRequest): Promise<NetworkSlot> {
    const { owner, allowInternet, vmmUser } = request;
    const layout = this.#layout(index);
    await this.#options.journal.record(owner, { kind: 'network-slot', index });
    await allDone([
      this.checkFirewall(),
      // The previous user of the address may be paused, with connections that wait for it.
      ...(request.preferredIndex === index ? [] : [this.#resetConnections(index)]),
      configureSlot(layout, this.#options.hostNamespace, allowInternet, vmmUser),
    ]);
    const slot = leasedSlot(layout);
    this.#states.set(index, { kind: 'leased', owner, slot });
    return slot;
  }

  async #repair(owner: string, index: number): Promise<NetworkSlot> {
    const layout = this.#layout(index);
    await this.checkFirewall();
    const condition = await repairSlot(layout, this.#options.hostNamespace);
    if (condition === 'lost') {
      throw new TorporError(
        'guest_unreachable',
        `The network namespace ${layout.namespace} of sandbox ${owner} no longer exists or has no tap device.`,
      );
    }
    if (condition === 'relinked') {
      this.#options.logger.warn(
        { owner, index },
        'Link of a running sandbox recreated; the sandbox has no internet access now',
      );
    }
    return leasedSlot(layout);
  }

  /** If the work fails, removes what it left, then throws its error. */
  async #orDiscard<T>(index: number, work: Promise<T>): Promise<T> {
    try {
      return await work;
    } catch (error) {
      const { logger } = this.#options;
      logger.warn({ err: error, index }, 'Network slot could not be prepared');
      await this.#remove(index, { kind: 'reserved', owner: POOL_OWNER }).catch(
        (failure: unknown) => {
          logger.error({ err: failure, index }, 'Network slot could not be removed');
        },
      );
      throw error;
    }
  }

  #takeDown(index: number, state: SlotState): Promise<void> {
    this.#states.set(index, { kind: 'changing' });
    return this.#track(this.#changing.run(() => this.#remove(index, state))).finally(() =>
      this.#fill(),
    );
  }

  /** Removes a slot and frees its index; if that fails the slot stays what it was, for another attempt. */
  async #remove(index: number, before: SlotState): Promise<void> {
    try {
      await removeSlot(this.#names, index, this.#options.hostNamespace);
      await this.#options.journal.forget({ kind: 'network-slot', index });
    } catch (error) {
      this.#states.set(index, before);
      throw error;
    }
    this.#setFree(index);
  }

  #setFree(index: number): void {
    this.#states.delete(index);
    this.#free.push(index);
  }
}

/** Like Promise.all, but waits for all of them also when one fails. */
async function allDone(work: readonly Promise<unknown>[]): Promise<void> {
  for (const result of await Promise.allSettled(work)) {
    if (result.status === 'rejected') throw result.reason;
  }
}

function leasedSlot(layout: SlotLayout): NetworkSlot {
  return {
    index: layout.index,
    lease: randomUUID(),
    namespace: layout.namespace,
    tapDevice: TAP_DEVICE,
    hostAddress: layout.hostAddress,
  };
}

function noSlotLeft(count: number): TorporError {
  return new TorporError('no_hosts_available', `All ${count} network slots are in use.`);
}
