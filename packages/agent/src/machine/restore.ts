import { randomBytes } from 'node:crypto';
import { access } from 'node:fs/promises';
import { join } from 'node:path';
import { BUILD_FILES, type Build, BuildFormatError } from '@torpor/builds';
import { copySparse } from '@torpor/linux';
import { GUEST_DRIVES, TorporError } from '@torpor/protocol';
import { type MicroVm, restoreObstacle } from '@torpor/vmm';
import type { HostContext } from '../host-context.ts';
import type { NetworkSlot } from '../network/slot.ts';
import { type CreateContext, holdMachine, machineSpec } from './steps.ts';

/** How soon after a restore the pages that it touched are taken for its working set. */
const WORKING_SET_AFTER_MS = 5_000;

export interface RestoredMachine {
  readonly vm: MicroVm;
  /** Names the VM at the pager. */
  readonly servedAs: string;
  /** Hears of it when the guest's memory can no longer be served; it has been killed by then. */
  readonly fault: () => string | undefined;
}

/**
 * Checks a build out for a sandbox: a private disk, memory that the pager fills, a
 * fresh VMM in the given slot. Its vCPUs are stopped. The build must be referenced or
 * leased, and has passed {@link checkRestorable}.
 */
export async function restoreMachine(
  context: CreateContext,
  build: Build,
  slot: NetworkSlot,
): Promise<RestoredMachine> {
  const { host, id, stack } = context;
  const { builds, pages } = host.snapshots;
  await copySparse(builds.path(build.id, BUILD_FILES.disk), host.layout.upperDisk(id));
  const attempt = randomBytes(4).toString('hex');
  const servedAs = `${id}-${attempt}`;
  // A path of its own: the pager removes the socket of an earlier attempt when it gives that up.
  const socketPath = join(host.layout.runDirectory(id), `pages-${attempt}`);
  const { workingSets } = host.snapshots;
  const workingSet = await workingSets.get(build.id);
  const served = new ServedMemory(host, servedAs);
  stack.defer(() => pages.release(servedAs));
  await pages.serve(
    {
      vm: servedAs,
      socketPath,
      headerPath: builds.path(build.id, BUILD_FILES.header),
      diffPaths: Object.fromEntries(
        build.header.mapping.builds.map((holder) => [
          holder,
          builds.path(holder, BUILD_FILES.memory),
        ]),
      ),
      ...(workingSet === undefined ? {} : { workingSet }),
      connectTimeoutMs: host.stepTimeoutMs,
    },
    (reason) => served.fail(reason),
  );
  const { artifacts, memoryMiB, vcpus } = build.manifest;
  const vm = await host.driver.restore(
    machineSpec(context, slot, {
      vcpus,
      memoryMiB,
      kernelPath: required(build, 'kernel'),
      initramfsPath: required(build, 'initramfs'),
      drives: [
        { id: GUEST_DRIVES.base.id, path: artifacts.base ?? '', readOnly: true },
        { id: GUEST_DRIVES.agent.id, path: artifacts.agent ?? '', readOnly: true },
      ],
    }),
    {
      statePath: builds.path(build.id, BUILD_FILES.state),
      memory: { kind: 'userfaultfd', socketPath },
    },
  );
  await holdMachine(host, id, vm, stack);
  served.vm = vm;
  if (workingSet === undefined) stack.defer(recordWorkingSet(host, servedAs, build.id));
  return { vm, servedAs, fault: () => served.reason };
}

/** The end of a VM whose pages cannot be served: it is killed, and the reason is kept. */
export class ServedMemory {
  readonly #host: HostContext;
  readonly #servedAs: string;
  reason: string | undefined;
  #vm: MicroVm | undefined;

  constructor(host: HostContext, servedAs: string) {
    this.#host = host;
    this.#servedAs = servedAs;
  }

  set vm(vm: MicroVm) {
    this.#vm = vm;
    if (this.reason !== undefined) this.#end(vm);
  }

  fail(reason: string): void {
    this.#host.logger.error({ vm: this.#servedAs, reason }, 'memory can no longer be served');
    this.reason = reason;
    if (this.#vm !== undefined) this.#end(this.#vm);
  }

  #end(vm: MicroVm): void {
    vm.kill().catch((error: unknown) => {
      this.#host.logger.error({ vm: this.#servedAs, err: error }, 'VM not killed');
    });
  }
}

/**
 * Takes over the memory of a VM that an earlier agent had served; the VM follows. A VM
 * whose pager is gone may not even answer, so this comes first. Throws `vmm_failed`.
 */
export async function adoptMemory(
  host: HostContext,
  servedAs: string,
  stack: AsyncDisposableStack,
): Promise<ServedMemory> {
  const { pages } = host.snapshots;
  const served = new ServedMemory(host, servedAs);
  await pages.adopt(servedAs, (reason) => served.fail(reason));
  stack.defer(() => pages.release(servedAs));
  return served;
}

/** Records, once, what this restore touched. Answers how to give that up. */
function recordWorkingSet(host: HostContext, servedAs: string, buildId: string): () => void {
  const { pages, workingSets } = host.snapshots;
  const timer = setTimeout(async () => {
    try {
      const description = await pages.describe(servedAs);
      if (description !== undefined) await workingSets.set(buildId, description.workingSet);
    } catch (error) {
      host.logger.warn({ build: buildId, err: error }, 'working set not recorded');
    }
  }, WORKING_SET_AFTER_MS).unref();
  return () => clearTimeout(timer);
}

/**
 * State is only good for the VMM, accelerator and machine that wrote it. Throws
 * `build_invalid` with the file that is missing or foreign, and what to do.
 */
export async function checkRestorable(host: HostContext, build: Build): Promise<void> {
  const path = host.snapshots.builds.path(build.id, BUILD_FILES.manifest);
  const { producer, artifacts } = build.manifest;
  const obstacle = restoreObstacle(producer, host.vmm);
  if (obstacle !== undefined) throw new BuildFormatError(path, obstacle.what, obstacle.remedy);
  for (const [role, artifact] of Object.entries(artifacts)) {
    await access(artifact).catch((error: unknown) => {
      throw new TorporError('build_invalid', `${path}: its ${role}, ${artifact}, is missing.`, {
        remedy: 'Restore that file, or delete what was made from the build.',
        cause: error,
      });
    });
  }
}

function required(build: Build, role: string): string {
  const path = build.manifest.artifacts[role];
  if (path !== undefined) return path;
  throw new BuildFormatError(build.directory, `does not name its ${role}`);
}
