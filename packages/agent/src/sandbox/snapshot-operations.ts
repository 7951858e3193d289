import { rm, stat } from 'node:fs/promises';
import {
  BUILD_FILES,
  type Build,
  compact,
  needsCompaction,
  type ReferenceKind,
} from '@torpor/builds';
import { copySparse } from '@torpor/linux';
import { TorporError } from '@torpor/protocol';
import { commitMachine } from '../snapshot/commit.ts';
import type { HostParts } from './host-parts.ts';
import { requireFreeMemory } from './limits.ts';
import { PhaseTimer } from './phase-timer.ts';
import type { SandboxSpec } from './record.ts';
import type { RunningMachine, Sandbox } from './sandbox.ts';
import type { SandboxLedger, SandboxOutcome } from './sandbox-ledger.ts';

export interface ForkedSandbox {
  readonly id: string;
  readonly result: SandboxOutcome | TorporError;
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

/**
 * Pause, resume, snapshot and fork: everything that turns a sandbox into a build and
 * a build into a sandbox. A build is durable and referenced before the machine that it
 * was made from is given up, so a failure at any step leaves a sandbox that runs, or
 * one that is paused.
 */
export class SnapshotOperations {
  readonly #host: HostParts;
  readonly #ledger: SandboxLedger;

  constructor(host: HostParts, ledger: SandboxLedger) {
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
    const { build, spec } = await this.#ledger.run(id, async () => {
      const sandbox = this.#ledger.find(id);
      const present = await this.#present(sandbox, true, timer);
      resources.use(this.#host.snapshots.builds.lease(present.id));
      return { build: present, spec: sandbox.record.spec };
    });
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
    return { children, source: this.#ledger.outcome(this.#ledger.find(id), timer) };
  }

  /** The build that a template's id names. Throws `not_found` and `build_invalid`. */
  async template(templateId: string): Promise<Build> {
    const { builds } = this.#host.snapshots;
    const buildId = builds.references.get('template', templateId);
    if (buildId === undefined) {
      throw new TorporError('not_found', `This host has no snapshot ${templateId}.`);
    }
    return builds.get(buildId);
  }

  /** Reads every build back. */
  async *verify(): AsyncGenerator<BuildReport> {
    const { builds } = this.#host.snapshots;
    for (const buildId of await builds.list()) {
      using _lease = builds.lease(buildId);
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
    if (state === 'paused' && buildId !== undefined) return builds.get(buildId);
    throw notPossible(sandbox, 'committed');
  }

  async #pause(sandbox: Sandbox, timer: PhaseTimer): Promise<void> {
    const machine = running(sandbox, 'paused');
    await this.#ledger.transition(sandbox, 'pausing');
    const build = await this.#commit(sandbox, machine, 'move', timer);
    await timer.measure('release', async () => {
      await this.#ledger.release(sandbox);
      // The build has it.
      await rm(this.#host.layout.upperDisk(sandbox.id), { force: true });
    });
    await this.#ledger.transition(sandbox, 'paused', {
      buildId: build.id,
      machine: undefined,
      slot: undefined,
      memory: undefined,
    });
    await this.#compactIfDue(sandbox, build);
    this.#ledger.collectSoon();
  }

  async #commitAndRunOn(sandbox: Sandbox, timer: PhaseTimer): Promise<Build> {
    const machine = running(sandbox, 'committed');
    await this.#ledger.transition(sandbox, 'snapshotting');
    const build = await this.#commit(sandbox, machine, 'copy', timer);
    machine.parentId = build.id;
    await machine.vm.resume();
    const { servedAs } = machine;
    await this.#ledger.transition(sandbox, 'running', {
      buildId: build.id,
      memory: { parentId: build.id, ...(servedAs === undefined ? {} : { servedAs }) },
    });
    return build;
  }

  /** Commits a machine whose vCPUs are stopped afterwards. If that fails, it runs on. */
  async #commit(
    sandbox: Sandbox,
    machine: RunningMachine,
    disk: 'move' | 'copy',
    timer: PhaseTimer,
  ): Promise<Build> {
    const { id } = sandbox;
    try {
      await timer.measure('stop', () => machine.vm.pause());
      const build = await commitMachine(this.#host, {
        vm: machine.vm,
        spec: sandbox.record.spec,
        sandboxId: id,
        ...(machine.parentId === undefined ? {} : { parentId: machine.parentId }),
        lazy: machine.servedAs !== undefined,
        upperDisk: this.#host.layout.upperDisk(id),
        disk,
        timer,
      });
      await this.#host.snapshots.builds.references.set('sandbox', id, build.id);
      return build;
    } catch (error) {
      this.#host.logger.warn({ sandbox: id, err: error }, 'not committed, running on');
      // If its VMM has ended, that is reported once the lock is free.
      await machine.vm.resume().catch(() => undefined);
      await this.#ledger.transition(sandbox, 'running');
      throw TorporError.from(error);
    }
  }

  async #resume(sandbox: Sandbox, timer: PhaseTimer): Promise<void> {
    const { state, buildId, spec } = sandbox.record;
    if (buildId === undefined || (state !== 'paused' && state !== 'error')) {
      throw notPossible(sandbox, 'resumed');
    }
    const build = await this.#host.snapshots.builds.get(buildId);
    await requireFreeMemory(spec.memoryMiB, this.#host.layout.memoryRoot);
    await this.#ledger.transition(sandbox, 'resuming', { reason: undefined });
    try {
      const machine = await this.#ledger.bringUp(sandbox, { build, environment: {}, timer });
      await this.#ledger.goLive(sandbox, machine);
    } catch (error) {
      await rm(this.#host.layout.upperDisk(sandbox.id), { force: true });
      await this.#ledger.transition(sandbox, 'paused');
      throw error;
    }
  }

  /** A sandbox must not need ever more builds; while it is paused, nobody waits for this but the next resume. */
  async #compactIfDue(sandbox: Sandbox, build: Build): Promise<void> {
    const { builds } = this.#host.snapshots;
    const stored = new Map<string, number>();
    for (const holder of build.header.mapping.builds) {
      const { size } = await stat(builds.path(holder, BUILD_FILES.memory));
      stored.set(holder, size / 4096);
    }
    if (!needsCompaction(build.header.mapping, (holder) => stored.get(holder) ?? 0)) return;
    try {
      const buildId = await compact(builds, build, copySparse);
      await builds.references.set('sandbox', sandbox.id, buildId);
      await this.#ledger.change(sandbox, { buildId });
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
 * and so are kept boots whose files are gone.
 */
export async function dropStaleReferences(
  host: HostParts,
  sandboxExists: (id: string) => boolean,
): Promise<void> {
  const { builds } = host.snapshots;
  const isStale = async (kind: ReferenceKind, name: string, buildId: string) => {
    if (kind === 'sandbox') return !sandboxExists(name);
    if (!name.startsWith(BOOT_PREFIX)) return false;
    const build = await builds.get(buildId).catch(() => undefined);
    if (build === undefined) return true;
    const { initramfs, agent } = build.manifest.artifacts;
    const { initramfsPath, agentDrivePath } = host.artifacts;
    return initramfs !== initramfsPath || agent !== agentDrivePath;
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
