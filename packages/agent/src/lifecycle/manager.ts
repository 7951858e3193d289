import { mkdir, rm } from 'node:fs/promises';
import type { Build } from '@torpor/builds';
import { assertTransition, TorporError } from '@torpor/protocol';
import type { ExitReport } from '@torpor/vmm';
import { KeyedLock } from '../concurrency/keyed-lock.ts';
import { Turns } from '../concurrency/semaphore.ts';
import { syncDirectory } from '../data-dir/atomic-file.ts';
import type { GuestClient } from '../guest/guest-client.ts';
import type { HostContext } from '../host-context.ts';
import { bringUp } from '../machine/bring-up.ts';
import { ramDirectory } from '../machine/steps.ts';
import { takeDownOwned } from '../machine/take-down.ts';
import { VmmUsers } from '../machine/vmm-users.ts';
import { exitReason } from '../machine/wait-for-guest.ts';
import { PhaseTimer } from '../phase-timer.ts';
import type { FeedEvent } from '../registry/change-feed.ts';
import { newRecord, type SandboxRecord, type SandboxSpec } from '../registry/record.ts';
import { presentRecord, SandboxRecords } from '../registry/records.ts';
import { memoryRecord, type RunningMachine, Sandbox } from '../registry/sandbox.ts';
import { type CreateRequest, checkedSpec, requireFreeMemory } from './create-request.ts';
import { originalError } from './original-error.ts';
import type { MachineSource, SandboxLedger, SandboxOutcome } from './sandbox-ledger.ts';
import { SnapshotOperations } from './snapshot-operations.ts';

/** What start-up found: a sandbox, with its machine if it runs. */
export interface RecoveredSandbox {
  readonly record: SandboxRecord;
  readonly machine?: RunningMachine;
}

/**
 * How long a call to a guest waits while the sandbox is committed and runs on: writing
 * what a large guest has changed to a slow disk takes seconds.
 */
const SNAPSHOT_WAIT_MS = 10_000;

/** Several sandboxes that go at once are one collection. */
const COLLECT_AFTER_MS = 2_000;

/**
 * Conducts the life of all sandboxes of this host. Every change of a sandbox happens
 * under its lock, is checked against the table of transitions, and is on disk before
 * it is acted on. No operation depends on the connection of whoever asked for it.
 */
export class SandboxManager {
  readonly #host: HostContext;
  readonly #sandboxes = new Map<string, Sandbox>();
  readonly #locks = new KeyedLock();
  readonly #records: SandboxRecords;
  readonly #users: VmmUsers;
  readonly #boots: Turns;
  readonly #firstBoots = new KeyedLock();
  readonly #operations = new Set<Promise<unknown>>();
  /** Pause, resume, snapshot and fork. */
  readonly snapshots: SnapshotOperations;
  #collection: NodeJS.Timeout | undefined;
  #closing = false;

  constructor(host: HostContext, recovered: readonly RecoveredSandbox[]) {
    this.#host = host;
    this.#records = new SandboxRecords(host);
    this.#users = new VmmUsers(host.layout.instance);
    this.#boots = new Turns(host.concurrentBoots);
    this.snapshots = new SnapshotOperations(host, this.#ledger());
    for (const { record, machine } of recovered) {
      const sandbox = new Sandbox(record, host.now, machine);
      this.#sandboxes.set(record.id, sandbox);
      this.#users.reserve(record.uid);
      if (machine !== undefined) this.#watchMachine(sandbox, machine);
    }
  }

  list(): SandboxRecord[] {
    return [...this.#sandboxes.values()].map(presentRecord);
  }

  /** Throws `not_found`. */
  get(id: string): SandboxRecord {
    return presentRecord(this.#find(id));
  }

  /** All sandboxes, then every change; see {@link ChangeFeed.watch}. */
  watch(keepAliveMs: number, signal: AbortSignal): AsyncGenerator<FeedEvent<SandboxRecord>> {
    return this.#records.watch(() => this.list(), keepAliveMs, signal);
  }

  /** Counts as use of the sandbox. Throws `not_found`. */
  touch(id: string): void {
    this.#find(id).activity.touch();
  }

  /**
   * The guest of a running sandbox, and a hold on the sandbox for as long as it is
   * used. One that stands still only to be committed is waited for. Throws `not_found`,
   * and `invalid_state` with the reason for one that does not run.
   */
  async use(id: string): Promise<{ guest: GuestClient; hold: Disposable }> {
    const sandbox = this.#find(id);
    if (sandbox.record.state === 'snapshotting') {
      await this.#records.left(sandbox, 'snapshotting', SNAPSHOT_WAIT_MS);
    }
    this.#requireOpen();
    const { state, reason } = sandbox.record;
    if (state !== 'running' || sandbox.machine === undefined) {
      const why = reason === undefined ? '.' : `: ${reason}`;
      throw new TorporError('invalid_state', `Sandbox ${id} is not running, it is ${state}${why}`);
    }
    return { guest: sandbox.machine.guest, hold: sandbox.activity.hold() };
  }

  /** The last bytes of the console log, also of a sandbox that has failed. Throws `not_found`. */
  consoleLog(id: string): string {
    this.touch(id);
    return this.#host.layout.consoleLog(id);
  }

  /**
   * Creates a sandbox and resolves when its guest is ready. If it fails, nothing is
   * left. Throws `already_exists` for an id that is taken, also by one that is just
   * being created; `invalid_request`, `capacity_exceeded`, `no_hosts_available`,
   * `not_found` for an image, `conflict` if it is destroyed meanwhile, and what the
   * steps throw.
   */
  async create(request: CreateRequest): Promise<SandboxOutcome> {
    this.#requireOpen();
    const { id } = request;
    using held = request.fromSnapshot
      ? await this.snapshots.checkOut(request.templateId)
      : undefined;
    const build = held?.build;
    const spec = checkedSpec({ ...request, ...frozenShape(build) }, this.#host.limits);
    const environment = { ...request.defaultEnv, ...request.envs };
    return await this.#createFrom(id, spec, environment, build);
  }

  /**
   * Ends a sandbox and removes all of it. Idempotent: one that does not exist is
   * destroyed already. One that is being created is cancelled. If something cannot be
   * removed, the sandbox stays in state `error` and destroying it can be tried again.
   */
  async destroy(id: string): Promise<void> {
    await this.#destroyIf(id, () => true);
  }

  /** Destroys, or pauses where they ask for it, the sandboxes that have not been used for longer than their time to live. */
  async endIdle(): Promise<void> {
    const idle = [...this.#sandboxes.values()].filter(isIdle);
    await Promise.all(
      // Looked at again under the lock: it may have been used or destroyed meanwhile.
      idle.map(async (sandbox) => {
        const reason = `It was not used for ${sandbox.record.spec.timeoutSec} s.`;
        try {
          if (sandbox.record.spec.autoPause) await this.snapshots.pauseIf(sandbox.id, isIdle);
          else await this.#destroyIf(sandbox.id, isIdle, reason);
        } catch (error) {
          if (this.#sandboxes.get(sandbox.id) !== sandbox) return;
          this.#host.logger.error({ sandbox: sandbox.id, err: error }, 'idle sandbox not ended');
        }
      }),
    );
  }

  /** Destroys all sandboxes. Throws the first error after all have been tried. */
  async destroyAll(): Promise<void> {
    const results = await Promise.allSettled(
      [...this.#sandboxes.keys()].map((id) => this.destroy(id)),
    );
    const failed = results.find((result) => result.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
  }

  /** Refuses new operations, waits for those that run, and lets go of the machines without ending them. */
  async close(): Promise<void> {
    this.#closing = true;
    clearTimeout(this.#collection);
    await Promise.allSettled(this.#operations);
    const reason = new TorporError('host_unavailable', 'The host agent is stopping.');
    for (const sandbox of this.#sandboxes.values()) {
      const { machine } = sandbox;
      if (machine === undefined) continue;
      sandbox.machine = undefined;
      machine.guest.close(reason);
      await machine.vm.detach();
      await this.#records.rememberActivity(sandbox);
    }
  }

  async #createFrom(
    id: string,
    spec: SandboxSpec,
    environment: Readonly<Record<string, string>>,
    build: Build | undefined,
  ): Promise<SandboxOutcome> {
    this.#requireOpen();
    if (this.#sandboxes.has(id)) {
      throw new TorporError('already_exists', `There is a sandbox ${id} already.`, {
        remedy: 'Each sandbox needs a new id.',
      });
    }
    const now = Date.now();
    const record = newRecord({
      id,
      state: 'creating',
      spec,
      uid: this.#users.acquire(),
      createdAt: now,
      lastActiveAt: now,
      metadata: {},
    });
    const sandbox = new Sandbox(record, this.#host.now);
    this.#sandboxes.set(id, sandbox);
    return this.#operation(id, () => this.#create(sandbox, environment, build));
  }

  async #create(
    sandbox: Sandbox,
    environment: Readonly<Record<string, string>>,
    build: Build | undefined,
  ): Promise<SandboxOutcome> {
    const { id } = sandbox;
    const timer = new PhaseTimer();
    await this.#claimDirectory(sandbox);
    try {
      sandbox.creation.signal.throwIfAborted();
      await requireFreeMemory(sandbox.record.spec.memoryMiB, ramDirectory(this.#host));
      await this.#records.change(sandbox, {});
      const machine = await this.#bringUp(sandbox, { build, environment, timer });
      await this.#goLive(sandbox, machine);
      return this.#outcome(sandbox, timer);
    } catch (error) {
      const failure = TorporError.from(originalError(error));
      this.#host.logger.warn({ sandbox: id, err: error }, 'sandbox could not be created');
      await this.#abandon(sandbox, failure);
      throw failure;
    }
  }

  /** Makes the sandbox's directory, which must be new: what lies in an old one is not ours to remove. */
  async #claimDirectory(sandbox: Sandbox): Promise<void> {
    const { layout } = this.#host;
    try {
      await mkdir(layout.sandboxDirectory(sandbox.id), { mode: 0o700 });
      await syncDirectory(layout.sandboxesRoot);
    } catch (error) {
      this.#sandboxes.delete(sandbox.id);
      this.#users.release(sandbox.record.uid);
      throw TorporError.from(error);
    }
  }

  async #bringUp(sandbox: Sandbox, source: MachineSource): Promise<RunningMachine> {
    const turn = performance.now();
    const { signal } = sandbox.creation;
    const { id, spec, uid, lastSlotIndex } = sandbox.record;
    return this.#boots.run(() => {
      source.timer.add('queue', performance.now() - turn);
      signal.throwIfAborted();
      return bringUp({
        ...source,
        host: this.#host,
        boots: this.#firstBoots,
        id,
        spec,
        uid,
        preferredSlot: lastSlotIndex,
        signal,
      });
    });
  }

  async #goLive(sandbox: Sandbox, machine: RunningMachine): Promise<void> {
    const { slot } = machine;
    try {
      await this.#records.transition(sandbox, 'running', {
        slot: { index: slot.index, hostAddress: slot.hostAddress },
        lastSlotIndex: undefined,
        machine: machine.vm.description,
        memory: memoryRecord(machine),
        metadata: this.#versions(machine),
      });
    } catch (error) {
      await machine.resources.disposeAsync();
      throw error;
    }
    sandbox.machine = machine;
    sandbox.restartActivity();
    this.#watchMachine(sandbox, machine);
  }

  #outcome(sandbox: Sandbox, timer: PhaseTimer): SandboxOutcome {
    return { record: presentRecord(sandbox), timings: timer.finish() };
  }

  #ledger(): SandboxLedger {
    return {
      find: (id) => this.#find(id),
      run: (id, action) => {
        this.#requireOpen();
        return this.#operation(id, action);
      },
      transition: (sandbox, to, changes) => this.#records.transition(sandbox, to, changes),
      change: (sandbox, changes) => this.#records.change(sandbox, changes),
      bringUp: (sandbox, source) => this.#bringUp(sandbox, source),
      goLive: (sandbox, machine) => this.#goLive(sandbox, machine),
      release: (sandbox) => this.#free(sandbox),
      createFrom: (id, spec, build) => this.#createFrom(id, spec, {}, build),
      outcome: (sandbox, timer) => this.#outcome(sandbox, timer),
      collectSoon: () => this.#collectSoon(),
    };
  }

  #collectSoon(): void {
    if (this.#closing || this.#collection !== undefined) return;
    this.#collection = setTimeout(() => {
      this.#collection = undefined;
      const collecting = this.snapshots.collect().then(
        ({ removedBuildIds, freedBytes }) => {
          if (removedBuildIds.length === 0) return;
          this.#host.logger.info({ removedBuildIds, freedBytes }, 'builds collected');
        },
        (error: unknown) => this.#host.logger.error({ err: error }, 'builds not collected'),
      );
      this.#operations.add(collecting);
      void collecting.then(() => this.#operations.delete(collecting));
    }, COLLECT_AFTER_MS).unref();
  }

  /** After a failed creation: removes what is left, or keeps the sandbox as `error` if that fails too. */
  async #abandon(sandbox: Sandbox, failure: TorporError): Promise<void> {
    try {
      await this.#remove(sandbox);
      this.#records.announce(sandbox, 'error', failure.message);
    } catch (error) {
      const reason = `${failure.message} It could not be taken down either: ${TorporError.from(error).message}`;
      await this.#records.transition(sandbox, 'error', { reason });
    }
  }

  #destroyIf(id: string, condition: (sandbox: Sandbox) => boolean, reason?: string): Promise<void> {
    const sandbox = this.#sandboxes.get(id);
    if (sandbox === undefined) return Promise.resolve();
    if (reason === undefined) {
      sandbox.creation.abort(
        new TorporError('conflict', `Sandbox ${id} was destroyed while it was being created.`),
      );
    }
    return this.#operation(id, async () => {
      if (this.#sandboxes.get(id) !== sandbox || !condition(sandbox)) return;
      await this.#records.transition(sandbox, 'destroying', reason === undefined ? {} : { reason });
      try {
        await this.#release(sandbox);
        await this.#resetConnections(sandbox);
        // What takes the space goes before what needs some: the disk may be full.
        await rm(this.#host.layout.upperDisk(id), { force: true });
        await this.#remove(sandbox);
      } catch (error) {
        const message = `The sandbox could not be taken down: ${TorporError.from(error).message}`;
        await this.#records.transition(sandbox, 'error', { reason: message });
        throw new TorporError('internal_error', message, { cause: error });
      }
      assertTransition(id, sandbox.record.state, 'stopped');
      this.#records.announce(sandbox, 'stopped');
    });
  }

  /** Reports the end of a VMM that nobody asked for, at once, and frees what the sandbox held. */
  #watchMachine(sandbox: Sandbox, machine: RunningMachine): void {
    void machine.vm.exited.then((report) => {
      if (sandbox.machine !== machine) return;
      const reason = machine.fault() ?? exitReason(report);
      machine.guest.close(new TorporError('vmm_failed', `Sandbox ${sandbox.id}: ${reason}`));
      return this.#operation(sandbox.id, () => this.#machineEnded(sandbox, machine, report)).catch(
        (error: unknown) => {
          this.#host.logger.error({ sandbox: sandbox.id, err: error }, 'after the end of a VMM');
        },
      );
    });
  }

  async #machineEnded(sandbox: Sandbox, machine: RunningMachine, report: ExitReport) {
    if (sandbox.machine !== machine) return;
    this.#host.logger.warn({ sandbox: sandbox.id, reason: report.reason }, 'VMM ended');
    const reason = machine.fault() ?? exitReason(report);
    await this.#records.transition(sandbox, 'error', { reason });
    await this.#free(sandbox);
    await this.#resetConnections(sandbox);
  }

  /** Nobody will answer the host's connections to a guest that has ended. */
  async #resetConnections(sandbox: Sandbox): Promise<void> {
    const { slot, lastSlotIndex } = sandbox.record;
    const index = slot?.index ?? lastSlotIndex;
    if (index === undefined) return;
    await this.#host.slots.resetConnections(index).catch((error: unknown) => {
      this.#host.logger.warn({ sandbox: sandbox.id, err: error }, 'connections not reset');
    });
  }

  /** Ends the machine and frees everything outside the sandbox's directory. */
  async #release(sandbox: Sandbox): Promise<void> {
    const { machine } = sandbox;
    sandbox.machine = undefined;
    try {
      await machine?.resources.disposeAsync();
    } catch (error) {
      this.#host.logger.warn({ sandbox: sandbox.id, err: error }, 'not everything was released');
    }
  }

  /** {@link #release}, and whatever the journal still names of the sandbox. */
  async #free(sandbox: Sandbox): Promise<void> {
    await this.#release(sandbox);
    await takeDownOwned(this.#host, sandbox.id);
  }

  /** Removes the last traces of a sandbox whose machine is gone. */
  async #remove(sandbox: Sandbox): Promise<void> {
    const { layout } = this.#host;
    await takeDownOwned(this.#host, sandbox.id);
    await rm(layout.sandboxDirectory(sandbox.id), { recursive: true, force: true });
    await syncDirectory(layout.sandboxesRoot);
    const { references } = this.#host.snapshots.builds;
    if (references.get('sandbox', sandbox.id) !== undefined) {
      await references.delete('sandbox', sandbox.id);
      this.#collectSoon();
    }
    this.#sandboxes.delete(sandbox.id);
    this.#users.release(sandbox.record.uid);
  }

  /** Runs an operation under the sandbox's lock; {@link close} waits for it. */
  #operation<T>(id: string, action: () => Promise<T>): Promise<T> {
    const operation = this.#locks.with(id, action);
    const settled = operation.then(
      () => undefined,
      () => undefined,
    );
    this.#operations.add(settled);
    void settled.then(() => this.#operations.delete(settled));
    return operation;
  }

  #find(id: string): Sandbox {
    const sandbox = this.#sandboxes.get(id);
    if (sandbox !== undefined) return sandbox;
    throw new TorporError('not_found', `There is no sandbox ${JSON.stringify(id)} on this host.`);
  }

  #requireOpen(): void {
    if (this.#closing) throw new TorporError('host_unavailable', 'The host agent is stopping.');
  }

  #versions(machine: RunningMachine): Record<string, string> {
    const { artifacts, agentVersion } = this.#host;
    const { driver, vmmVersion, accelerator } = machine.vm.description;
    return {
      envd_version: artifacts.envdVersion,
      kernel_version: artifacts.kernel.version,
      vmm: driver,
      vmm_version: vmmVersion,
      accelerator,
      agent_version: agentVersion,
    };
  }
}

/** What a snapshot's sandbox cannot choose. */
function frozenShape(build: Build | undefined) {
  if (build === undefined) return {};
  const { vcpus, memoryMiB, diskMiB } = build.manifest;
  return { vcpus, memoryMiB, diskSizeMiB: diskMiB };
}

function isIdle({ record, activity }: Sandbox): boolean {
  const { timeoutSec } = record.spec;
  return record.state === 'running' && timeoutSec > 0 && activity.idleMs() >= timeoutSec * 1000;
}
