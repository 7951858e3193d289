import { rm, stat } from 'node:fs/promises';
import {
  BLOCK_SIZE,
  BUILD_FILES,
  type Build,
  compact,
  needsCompaction,
  type ReferenceKind,
} from '@torpor/builds';
import { copySparse } from '@torpor/linux';
import { TorporError } from '@torpor/protocol';
import { isSamePlatform } from '@torpor/vmm';
import { type CommittedMachine, commitMachine } from '../builds/commit.ts';
import type { HostContext } from '../host-context.ts';
import { checkRestorable } from '../machine/restore.ts';
import { ramDirectory } from '../machine/steps.ts';
import { PhaseTimer } from '../phase-timer.ts';
import type { SandboxSpec } from '../registry/record.ts';
import { memoryRecord, type RunningMachine, type Sandbox } from '../registry/sandbox.ts';
import { requireFreeMemory } from './create-request.ts';
import { originalError } from './original-error.ts';
import type { RecordChanges, SandboxLedger, SandboxOutcome } from './sandbox-ledger.ts';

export interface ForkedSandbox {
  readonly id: string;
  readonly result: SandboxOutcome | TorporError;
}

/** A build that stays while this is not disposed of. */
export interface HeldBuild extends Disposable {
  readonly build: Build;
}

export interface BuildReport {
  readonly buildId: string;
  /** What is wrong with it; undefined for a sound build. */
  readonly fault?: string;
  /** Bytes that it occupies. */
  readonly sizeBytes: number;
  /** What keeps it: `sandbox NAME` or `template NAME`. */
  readonly references: readonly string[];
}

export interface Collection {
  readonly removedBuildIds: readonly string[];
  readonly freedBytes: number;
}

/** Kept boots have names of their own among the templates. */
const BOOT_PREFIX = 'boot-';

/** What a record says of a machine, where there is none. */
const NO_MACHINE = { machine: undefined, slot: undefined, memory: undefined } as const;

/**
 * Pause, resume, snapshot and fork: everything that turns a sandbox into a build and
 * a build into a sandbox. A build is durable and referenced before the machine that it
 * was made from is given up, so a failure at any step leaves a sandbox that runs, or
 * one that is paused.
 */
export class SnapshotOperations {
  readonly #host: HostContext;
  readonly #ledger: SandboxLedger;

  constructor(host: HostContext, ledger: SandboxLedger) {
    this.#host = host;
    this.#ledger = ledger;
  }

  /** Idempotent. Throws `not_found`, `invalid_state`, and what making a build throws; then it runs on. */
  pause(id: string): Promise<SandboxOutcome> {
    return this.#ledger.run(id, async () => {
      const timer = new PhaseTimer();
      const sandbox = this.#ledger.find(id);
      if (sandbox.record.state !== 'paused') await this.#pause(sandbox, timer);
      return this.#ledger.outcome(sandbox, timer);
    });
  }

  /** As {@link pause}, if the sandbox still meets the condition once it is its turn. */
  pauseIf(id: string, condition: (sandbox: Sandbox) => boolean): Promise<void> {
    return this.#ledger.run(id, async () => {
      const sandbox = this.#ledger.find(id);
      if (condition(sandbox)) await this.#pause(sandbox, new PhaseTimer());
    });
  }

  /**
   * Idempotent. `timeoutSec`: a new time to live. Throws `not_found`, `invalid_state`,
   * `build_invalid`, and what bringing a machine up throws; then it is paused as before.
   */
  resume(id: string, timeoutSec?: number): Promise<SandboxOutcome> {
    return this.#ledger.run(id, async () => {
      const timer = new PhaseTimer();
      const sandbox = this.#ledger.find(id);
      if (sandbox.record.state !== 'running') await this.#resume(sandbox, timer);
      if (timeoutSec !== undefined) {
        const spec: SandboxSpec = { ...sandbox.record.spec, timeoutSec };
        await this.#ledger.change(sandbox, { spec });
      }
      return this.#ledger.outcome(sandbox, timer);
    });
  }

  /**
   * Keeps the present state of a sandbox under a template's id, instead of whatever
   * that named. A running source is paused by it, unless it is to go on.
   */
  async snapshot(
    id: string,
    templateId: string,
    options: { readonly resumeSource: boolean },
  ): Promise<SandboxOutcome & { readonly build: Build; readonly sizeBytes: number }> {
    checkTemplateId(templateId);
    return this.#ledger.run(id, async () => {
      const timer = new PhaseTimer();
      const sandbox = this.#ledger.find(id);
      const build = await this.#present(sandbox, options.resumeSource, timer);
      await this.#host.snapshots.builds.references.set('template', templateId, build.id);
      // What the name pointed at before may be garbage now.
      this.#ledger.collectSoon();
      const sizeBytes = await this.#sizeOf(build.id);
      return { ...this.#ledger.outcome(sandbox, timer), build, sizeBytes };
    });
  }

  /** The name goes at once; the build goes when nothing else needs it. Idempotent. */
  async deleteSnapshot(templateId: string): Promise<void> {
    checkTemplateId(templateId);
    await this.#host.snapshots.builds.references.delete('template', templateId);
    this.#ledger.collectSoon();
  }

  /**
   * Copies of a sandbox, which goes on as it was. One that cannot be made does not
   * keep the others from being made.
   */
  async fork(
    id: string,
    childIds: readonly string[],
    timeoutSec: number,
  ): Promise<{ readonly children: readonly ForkedSandbox[]; readonly source: SandboxOutcome }> {
    const timer = new PhaseTimer();
    using resources = new DisposableStack();
    const { build, sandbox } = await this.#ledger.run(id, async () => {
      const source = this.#ledger.find(id);
      const present = await this.#present(source, true, timer);
      resources.use(this.#host.snapshots.builds.lease(present.id));
      await checkRestorable(this.#host, present);
      return { build: present, sandbox: source };
    });
    const { spec } = sandbox.record;
    const children = await timer.measure('children', () =>
      Promise.all(
        childIds.map(async (childId) => {
          const child: SandboxSpec = { ...spec, timeoutSec, hostname: childId };
          const result = await this.#ledger
            .createFrom(childId, child, build)
            .catch((error: unknown) => TorporError.from(error));
          return { id: childId, result };
        }),
      ),
    );
    // The source may have been destroyed meanwhile; the children are there all the same.
    return { children, source: this.#ledger.outcome(sandbox, timer) };
  }

  /** The build that a template's id names, held. Throws `not_found` and `build_invalid`. */
  async checkOut(templateId: string): Promise<HeldBuild> {
    const { builds } = this.#host.snapshots;
    const buildId = builds.references.get('template', templateId);
    if (buildId === undefined) {
      throw new TorporError('not_found', `This host has no snapshot ${templateId}.`);
    }
    // In the same turn: once the reference is deleted, the lease alone keeps the build.
    using resources = new DisposableStack();
    resources.use(builds.lease(buildId));
    const build = await builds.check(buildId);
    await checkRestorable(this.#host, build);
    const held = resources.move();
    return { build, [Symbol.dispose]: () => held.dispose() };
  }

  /** Reads every build back. */
  async *verify(): AsyncGenerator<BuildReport> {
    const { builds } = this.#host.snapshots;
    for (const buildId of await builds.list()) {
      using lease = await builds.leaseListed(buildId);
      if (lease === undefined) continue;
      const references = builds.references
        .all()
        .filter((reference) => reference.buildId === buildId)
        .map(({ kind, name }) => `${kind} ${name}`);
      const sizeBytes = await this.#sizeOf(buildId);
      const fault = await builds.verify(buildId).then(
        () => undefined,
        (error: unknown) => TorporError.from(error).message,
      );
      yield { buildId, sizeBytes, references, ...(fault === undefined ? {} : { fault }) };
    }
  }

  /** Removes the builds that nothing reaches. */
  async collect(): Promise<Collection> {
    const { builds, workingSets } = this.#host.snapshots;
    const sizes = new Map<string, number>();
    for (const id of await builds.list()) sizes.set(id, await this.#sizeOf(id));
    const removedBuildIds = await builds.collect();
    await workingSets.retain(new Set(await builds.list()));
    const freedBytes = removedBuildIds.reduce((sum, id) => sum + (sizes.get(id) ?? 0), 0);
    return { removedBuildIds, freedBytes };
  }

  /** The build of a sandbox as it is now: the one it is paused in, or a new one. */
  async #present(sandbox: Sandbox, runOn: boolean, timer: PhaseTimer): Promise<Build> {
    const { builds } = this.#host.snapshots;
    if (sandbox.record.state === 'running') {
      if (runOn) return this.#commitAndRunOn(sandbox, timer);
      await this.#pause(sandbox, timer);
    }
    const { state, buildId } = sandbox.record;
    if (state === 'paused' && buildId !== undefined) return builds.check(buildId);
    throw notPossible(sandbox, 'committed');
  }

  async #pause(sandbox: Sandbox, timer: PhaseTimer): Promise<void> {
    const machine = running(sandbox, 'paused');
    await this.#ledger.transition(sandbox, 'pausing');
    const { build } = await this.#commit(sandbox, machine, 'move', timer);
    machine.guest.close(
      new TorporError('invalid_state', `Sandbox ${sandbox.id} has been paused.`, {
        remedy: 'Resume it with `torpor resume`.',
      }),
    );
    try {
      await timer.measure('release', async () => {
        await this.#ledger.release(sandbox);
        // The build has it.
        await rm(this.#host.layout.upperDisk(sandbox.id), { force: true });
      });
    } catch (error) {
      const failure = TorporError.from(error);
      const reason = `It was paused, but its machine could not be taken down: ${failure.message}`;
      await this.#ledger.transition(sandbox, 'error', { ...NO_MACHINE, buildId: build.id, reason });
      throw failure;
    }
    await this.#ledger.transition(sandbox, 'paused', {
      ...NO_MACHINE,
      lastSlotIndex: sandbox.record.slot?.index,
      buildId: build.id,
    });
    await this.#compactIfDue(sandbox, build);
    this.#ledger.collectSoon();
  }

  async #commitAndRunOn(sandbox: Sandbox, timer: PhaseTimer): Promise<Build> {
    const machine = running(sandbox, 'committed');
    await this.#ledger.transition(sandbox, 'snapshotting');
    const { build, snapshot } = await this.#commit(sandbox, machine, 'copy', timer);
    machine.parentId = build.id;
    machine.parentSnapshot = snapshot;
    await this.#runOn(sandbox, machine, { buildId: build.id, memory: memoryRecord(machine) });
    this.#ledger.collectSoon();
    return build;
  }

  /** Commits a machine whose vCPUs are stopped afterwards. If that fails, it runs on. */
  async #commit(
    sandbox: Sandbox,
    machine: RunningMachine,
    disk: 'move' | 'copy',
    timer: PhaseTimer,
  ): Promise<CommittedMachine> {
    const { id } = sandbox;
    try {
      await timer.measure('stop', () => machine.vm.pause());
      return await commitMachine(this.#host, {
        vm: machine.vm,
        spec: sandbox.record.spec,
        owner: id,
        sandboxId: id,
        ...(machine.parentId === undefined ? {} : { parentId: machine.parentId }),
        parentSnapshot: machine.parentSnapshot,
        lazy: machine.servedAs !== undefined,
        upperDisk: this.#host.layout.upperDisk(id),
        disk,
        timer,
      });
    } catch (error) {
      const failure = TorporError.from(originalError(error));
      this.#host.logger.warn({ sandbox: id, err: error }, 'not committed, running on');
      await this.#runOn(sandbox, machine, {}).catch((runOnError: unknown) => {
        this.#host.logger.error({ sandbox: id, err: runOnError }, 'it does not run on');
      });
      throw failure;
    }
  }

  /** Lets a stopped machine go on. One that cannot is ended, and its sandbox is `error`. */
  async #runOn(sandbox: Sandbox, machine: RunningMachine, changes: RecordChanges): Promise<void> {
    try {
      await machine.vm.resume();
    } catch (error) {
      const failure = TorporError.from(error);
      const reason = machine.fault() ?? `The machine could not go on: ${failure.message}`;
      await this.#ledger.transition(sandbox, 'error', { ...changes, ...NO_MACHINE, reason });
      await this.#ledger.release(sandbox);
      throw failure;
    }
    await this.#ledger.transition(sandbox, 'running', changes);
  }

  async #resume(sandbox: Sandbox, timer: PhaseTimer): Promise<void> {
    const { state, buildId, spec } = sandbox.record;
    if (buildId === undefined || (state !== 'paused' && state !== 'error')) {
      throw notPossible(sandbox, 'resumed');
    }
    const { builds } = this.#host.snapshots;
    using _lease = builds.lease(buildId);
    const build = await builds.check(buildId);
    await checkRestorable(this.#host, build);
    await requireFreeMemory(spec.memoryMiB, ramDirectory(this.#host));
    // What an earlier attempt may not have been able to take down.
    await this.#ledger.release(sandbox);
    await this.#ledger.transition(sandbox, 'resuming', {
      ...NO_MACHINE,
      lastSlotIndex: sandbox.record.slot?.index ?? sandbox.record.lastSlotIndex,
      reason: undefined,
    });
    try {
      const machine = await this.#ledger.bringUp(sandbox, { build, environment: {}, timer });
      await this.#ledger.goLive(sandbox, machine);
    } catch (error) {
      const failure = TorporError.from(originalError(error));
      this.#host.logger.warn({ sandbox: sandbox.id, err: error }, 'not resumed');
      await this.#giveUpResume(sandbox, failure);
      throw failure;
    }
  }

  async #giveUpResume(sandbox: Sandbox, failure: TorporError): Promise<void> {
    try {
      await this.#ledger.release(sandbox);
      await rm(this.#host.layout.upperDisk(sandbox.id), { force: true });
    } catch (error) {
      const why = TorporError.from(error).message;
      const reason = `${failure.message} It could not be taken down either: ${why}`;
      await this.#ledger.transition(sandbox, 'error', { reason });
      return;
    }
    await this.#ledger.transition(sandbox, 'paused');
  }

  /** A sandbox must not need ever more builds; while it is paused, nobody waits for this but the next resume. */
  async #compactIfDue(sandbox: Sandbox, build: Build): Promise<void> {
    const { builds } = this.#host.snapshots;
    const name = (buildId: string) => builds.references.set('sandbox', sandbox.id, buildId);
    using _lease = builds.lease(build.id);
    try {
      const stored = new Map<string, number>();
      for (const holder of build.header.mapping.builds) {
        const { size } = await stat(builds.path(holder, BUILD_FILES.memory));
        stored.set(holder, size / BLOCK_SIZE);
      }
      if (!needsCompaction(build.header.mapping, (holder) => stored.get(holder) ?? 0)) return;
      const buildId = await compact(builds, build, copySparse, name);
      try {
        await this.#ledger.change(sandbox, { buildId });
      } catch (error) {
        await name(build.id);
        throw error;
      }
    } catch (error) {
      this.#host.logger.warn({ sandbox: sandbox.id, err: error }, 'chain not compacted');
    }
  }

  /** Bytes that the files of a build occupy. */
  async #sizeOf(buildId: string): Promise<number> {
    let bytes = 0;
    for (const file of Object.values(BUILD_FILES)) {
      const path = this.#host.snapshots.builds.path(buildId, file);
      bytes += (await stat(path).catch(() => undefined))?.blocks ?? 0;
    }
    return bytes * 512;
  }
}

/**
 * What start-up does with references: those of sandboxes that are gone are dropped,
 * and so are kept boots whose files are gone, or that another VMM was used for.
 */
export async function dropStaleReferences(
  host: HostContext,
  sandboxExists: (id: string) => boolean,
): Promise<void> {
  const { builds } = host.snapshots;
  const isStale = async (kind: ReferenceKind, name: string, buildId: string) => {
    if (kind === 'sandbox') return !sandboxExists(name);
    if (!name.startsWith(BOOT_PREFIX)) return false;
    const build = await builds.get(buildId).catch(() => undefined);
    if (build === undefined) return true;
    const { producer, artifacts } = build.manifest;
    const { initramfsPath, agentDrivePath } = host.artifacts;
    return (
      artifacts.initramfs !== initramfsPath ||
      artifacts.agent !== agentDrivePath ||
      !isSamePlatform(producer, host.vmm)
    );
  };
  for (const { kind, name, buildId } of builds.references.all()) {
    if (await isStale(kind, name, buildId)) await builds.references.delete(kind, name);
  }
}

function running(sandbox: Sandbox, participle: string): RunningMachine {
  const { machine, record } = sandbox;
  if (record.state === 'running' && machine !== undefined) return machine;
  throw notPossible(sandbox, participle);
}

function notPossible({ id, record }: Sandbox, participle: string): TorporError {
  const why = record.reason === undefined ? '' : `: ${record.reason}`;
  return new TorporError(
    'invalid_state',
    `Sandbox ${id} is ${record.state}; it cannot be ${participle}${why}`,
  );
}

function checkTemplateId(templateId: string): void {
  if (/^[A-Za-z0-9._-]{1,128}$/.test(templateId) && !templateId.startsWith(BOOT_PREFIX)) return;
  throw new TorporError('invalid_request', `${JSON.stringify(templateId)} is no template id.`);
}
