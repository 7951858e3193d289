import { isTransitional, TorporError } from '@torpor/protocol';
import { BuildCollector } from '../builds/collect.ts';
import { KeyedLock } from '../concurrency/keyed-lock.ts';
import { Semaphore } from '../concurrency/semaphore.ts';
import type { GuestClient } from '../guest/guest-client.ts';
import type { HostContext } from '../host-context.ts';
import type { BootLimits } from '../machine/bring-up.ts';
import type { RunningMachine } from '../machine/running-machine.ts';
import { VmmUsers } from '../machine/vmm-users.ts';
import type { FeedEvent } from './change-feed.ts';
import { Fences } from './fences.ts';
import type { SandboxRecord } from './record.ts';
import { currentRecord, SandboxRecords } from './records.ts';
import { Sandbox } from './sandbox.ts';

/**
 * How long a call to a guest waits while the sandbox is stopped to be committed: writing
 * what a large guest has changed to a slow disk takes seconds.
 */
const SNAPSHOT_WAIT_MS = 10_000;

/** The guest of a running sandbox; the sandbox is in use until this is disposed of. */
export interface GuestLease extends Disposable {
  readonly guest: GuestClient;
}

/**
 * The sandboxes of this host, and the state that all operations on them share. The operations
 * are functions over this registry (`lifecycle/`): every change of a sandbox happens under its
 * lock ({@link run}), is checked against the table of transitions, and is on disk before the
 * operation proceeds ({@link records}). No operation depends on the connection of its caller.
 */
export class SandboxRegistry {
  readonly host: HostContext;
  readonly records: SandboxRecords;
  readonly users: VmmUsers;
  readonly boots: BootLimits;
  readonly collector: BuildCollector;
  readonly fences: Fences;
  readonly #sandboxes = new Map<string, Sandbox>();
  readonly #locks = new KeyedLock();
  readonly #operations = new Set<Promise<unknown>>();
  #closing = false;

  constructor(host: HostContext) {
    this.host = host;
    this.records = new SandboxRecords(host);
    this.fences = new Fences(host.now);
    this.users = new VmmUsers(host.layout.instance);
    this.boots = { machines: new Semaphore(host.concurrentBoots), shapes: new KeyedLock() };
    this.collector = new BuildCollector(host);
  }

  /** All sandboxes, in their current state. */
  all(): Sandbox[] {
    return [...this.#sandboxes.values()];
  }

  list(): SandboxRecord[] {
    return this.all().map(currentRecord);
  }

  has(id: string): boolean {
    return this.#sandboxes.has(id);
  }

  /** Throws `not_found`. */
  find(id: string): Sandbox {
    const sandbox = this.#sandboxes.get(id);
    if (sandbox !== undefined) return sandbox;
    throw new TorporError('not_found', `There is no sandbox ${JSON.stringify(id)} on this host.`);
  }

  /** Whether the sandbox is still registered under its id. */
  isPresent(sandbox: Sandbox): boolean {
    return this.#sandboxes.get(sandbox.id) === sandbox;
  }

  /** Throws `not_found`. */
  get(id: string): SandboxRecord {
    return currentRecord(this.find(id));
  }

  /** All sandboxes, then every change; see `ChangeFeed.watch`. */
  watch(keepAliveMs: number, signal: AbortSignal): AsyncGenerator<FeedEvent<SandboxRecord>> {
    return this.records.watch(() => this.list(), keepAliveMs, signal);
  }

  /** Counts as use of the sandbox. Throws `not_found`. */
  touch(id: string): void {
    this.find(id).activity.touch();
  }

  /**
   * Leases the guest of a running sandbox. Waits for a sandbox that
   * is stopped only to be committed. Throws `not_found`, and `invalid_state` with the reason if
   * it is not running.
   */
  async use(id: string): Promise<GuestLease> {
    const sandbox = this.find(id);
    if (sandbox.record.state === 'snapshotting') {
      await this.records.left(sandbox, 'snapshotting', SNAPSHOT_WAIT_MS);
    }
    this.requireOpen();
    const { state, reason } = sandbox.record;
    if (state !== 'running' || sandbox.machine === undefined) {
      const why = reason === undefined ? '.' : `: ${reason}`;
      throw new TorporError('invalid_state', `Sandbox ${id} is not running, it is ${state}${why}`);
    }
    return Object.assign(sandbox.activity.lease(), { guest: sandbox.machine.guest });
  }

  /** Path of the console log, even of a sandbox that has failed. Counts as use. Throws `not_found`. */
  consoleLog(id: string): string {
    this.touch(id);
    return this.host.layout.consoleLog(id);
  }

  /** Registers a sandbox under an unused id and allocates its user id. */
  add(record: SandboxRecord, machine?: RunningMachine): Sandbox {
    const sandbox = new Sandbox(record, this.host.now, machine);
    this.#sandboxes.set(record.id, sandbox);
    this.users.reserve(record.uid);
    this.fences.admit(record.id, record.fence);
    return sandbox;
  }

  /** Drops a sandbox whose resources are all released. */
  delete(sandbox: Sandbox): void {
    this.#sandboxes.delete(sandbox.id);
    this.users.release(sandbox.record.uid);
  }

  /** Admits a call that changes a sandbox, which may not exist yet. Throws `conflict`: see {@link Fences}. */
  admit(id: string, fence: number | undefined): void {
    if (fence === undefined) return;
    this.fences.admit(id, fence);
    const sandbox = this.#sandboxes.get(id);
    if (sandbox !== undefined) sandbox.fence = fence;
  }

  /**
   * For a control plane that settles an operation: resolves when no call with a lower fence can
   * begin to change the sandbox, neither in this agent nor in the next. One that has begun shows
   * in the state. Throws `conflict` if a higher fence is known.
   */
  async fenceOff(id: string, fence: number): Promise<void> {
    this.admit(id, fence);
    const sandbox = this.#sandboxes.get(id);
    if (sandbox === undefined || isTransitional(sandbox.record.state)) return;
    // An admitted operation may hold the lock and not have changed the state yet.
    await this.run(id, async () => {
      if (this.isPresent(sandbox)) await this.records.save(sandbox);
    });
  }

  /** Runs an operation under the sandbox's lock until it has finished; {@link close} waits for it. */
  run<T>(id: string, action: () => Promise<T>): Promise<T> {
    const operation = this.#locks.with(id, action);
    const settled = operation.then(
      () => undefined,
      () => undefined,
    );
    this.#operations.add(settled);
    void settled.then(() => this.#operations.delete(settled));
    return operation;
  }

  /** Throws `host_unavailable` when the agent is stopping: no further operation starts. */
  requireOpen(): void {
    if (this.#closing) throw new TorporError('host_unavailable', 'The host agent is stopping.');
  }

  /**
   * Refuses new operations, waits for those in progress, and detaches from the machines, which
   * keep running.
   */
  async close(): Promise<void> {
    this.#closing = true;
    await Promise.allSettled([...this.#operations, this.collector.close()]);
    const reason = new TorporError('host_unavailable', 'The host agent is stopping.');
    for (const sandbox of this.#sandboxes.values()) {
      const { machine } = sandbox;
      if (machine === undefined) continue;
      sandbox.machine = undefined;
      machine.guest.close(reason);
      await machine.vm.detach();
      await this.records.save(sandbox);
    }
  }
}
