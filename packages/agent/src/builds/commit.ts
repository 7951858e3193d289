import { link, open, rm, writeFile } from 'node:fs/promises';
import {
  applyChanges,
  BLOCK_SIZE,
  BUILD_FILES,
  type Build,
  captureMemory,
  formatChecksum,
  type ManifestDraft,
  type StagedBuild,
  writeMemoryHeader,
  zeroMapping,
} from '@torpor/builds';
import { copySparse, dataExtents } from '@torpor/linux';
import { TorporError } from '@torpor/protocol';
import {
  buildOf,
  type Capture,
  committedAs,
  type DirtyBase,
  type MicroVm,
  vmmPlatform,
} from '@torpor/vmm';
import type { HostContext } from '../host-context.ts';
import type { PhaseTimer } from '../phase-timer.ts';

export interface CommitRequest {
  /** Its vCPUs are stopped, and stay so. */
  readonly vm: MicroVm;
  /** What its RAM is compared with. */
  readonly base: DirtyBase;
  /** Size of the sandbox's disk. */
  readonly diskMiB: number;
  /** The sandbox whose reference keeps the build. */
  readonly owner: string;
  /** Whose guest it is; absent for one that has no identity yet. */
  readonly sandboxId?: string;
  readonly upperDisk: string;
  /** `move`: the machine is released after this, so its disk may become the build's. `copy`: it keeps running. */
  readonly disk: 'move' | 'copy';
  readonly timer: PhaseTimer;
}

export interface CommittedMachine {
  readonly build: Build;
  /** What the machine's RAM is compared with from now on. */
  readonly base: DirtyBase;
}

/**
 * Makes a build of a machine: state, what changed of its memory, and its disk. It is
 * durable and the owner's reference names it when this resolves; before, nothing of the
 * machine has changed, but for what its VMM knows of changed memory. Throws `disk_full`,
 * `vmm_failed`, `build_invalid`; then nothing is left of the attempt, and the reference
 * is as it was.
 */
export async function commitMachine(
  host: HostContext,
  request: CommitRequest,
): Promise<CommittedMachine> {
  const { builds } = host.snapshots;
  const { timer } = request;
  await using staged = await builds.stage();
  const { checksum, capture } = await captureInto(host, request, staged);
  await timer.measure('disk', async () => {
    const target = staged.path(BUILD_FILES.disk);
    if (request.disk === 'move') await linkOrCopy(request.upperDisk, target);
    else await copySparse(request.upperDisk, target);
  });
  await timer.measure('publish', () =>
    staged.publish(manifestOf(host, request), { [BUILD_FILES.memory]: checksum }),
  );
  try {
    const build = await builds.get(staged.id);
    await builds.references.set('sandbox', request.owner, build.id);
    return { build, base: committedAs(build.id, capture) };
  } catch (error) {
    // The machine keeps running, and may write to the very file that is the build's disk.
    await builds.discard(staged.id);
    throw error;
  }
}

/** Hard links do not cross file systems, and builds may lie on one of their own. */
async function linkOrCopy(from: string, to: string): Promise<void> {
  try {
    await link(from, to);
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'EXDEV')) throw error;
    await copySparse(from, to);
  }
}

/** Writes state, memory file and its header. */
async function captureInto(
  host: HostContext,
  request: CommitRequest,
  staged: StagedBuild,
): Promise<{ readonly checksum: string; readonly capture: Capture }> {
  const { vm, base, timer } = request;
  const target = {
    statePath: staged.path(BUILD_FILES.state),
    // Needed only until the blocks that changed are in the build.
    memoryPath: staged.scratchPath,
  };
  await using resources = new AsyncDisposableStack();
  resources.defer(() => rm(target.memoryPath, { force: true }));
  const startedAt = performance.now();
  const capture = await vm.capture(base, target);
  const hasWrittenMemory = capture.memoryPath === target.memoryPath;
  timer.add(hasWrittenMemory ? 'snapshot' : 'state', performance.now() - startedAt);
  if (capture.fullBecause !== undefined) {
    const { id } = vm.description.spec;
    host.logger.info({ machine: id, reason: capture.fullBecause }, 'All memory was written');
  }
  const checksum = await timer.measure('memory', async () => {
    const parentId = buildOf(base);
    const parent = parentId === undefined ? undefined : await host.snapshots.builds.get(parentId);
    return await storeMemory(host, { capture, parent, staged, vm });
  });
  return { checksum, capture };
}

/** Stores what changed of the captured RAM since the parent; returns the memory file's checksum. */
async function storeMemory(
  host: HostContext,
  source: {
    readonly capture: Capture;
    readonly parent: Build | undefined;
    readonly staged: StagedBuild;
    readonly vm: MicroVm;
  },
): Promise<string> {
  const { capture, parent, staged, vm } = source;
  const { id, memoryMiB } = vm.description.spec;
  if (capture.holes === 'unchanged' && parent === undefined) {
    throw new TorporError('internal_error', `The memory of machine ${id} needs its parent build.`);
  }
  const { builds } = host.snapshots;
  const blockCount = (memoryMiB * 2 ** 20) / BLOCK_SIZE;
  await using resources = new AsyncDisposableStack();
  const memory = resources.use(await open(capture.memoryPath));
  const output = resources.use(await open(staged.path(BUILD_FILES.memory), 'wx', 0o600));
  const reader = parent && resources.use(await builds.openMemory(parent));
  const { changes, checksum } = await captureMemory(
    {
      memory,
      blockCount,
      extents: dataExtents(memory),
      holes: capture.holes,
      ...(reader === undefined ? {} : { parent: reader }),
    },
    output,
  );
  const before = parent?.header.mapping ?? zeroMapping(blockCount);
  const header = {
    generation: parent === undefined ? 0 : parent.header.generation + 1,
    buildId: staged.id,
    baseBuildId: parent?.header.baseBuildId ?? staged.id,
    mapping: applyChanges(before, staged.id, changes),
  };
  await writeFile(staged.path(BUILD_FILES.header), writeMemoryHeader(header), { mode: 0o600 });
  return formatChecksum(checksum);
}

function manifestOf(host: HostContext, request: CommitRequest): ManifestDraft {
  const { vm, base, sandboxId } = request;
  const { spec: machine } = vm.description;
  const [image, agent] = machine.drives;
  const parentId = buildOf(base);
  return {
    ...(parentId === undefined ? {} : { parentId }),
    ...(sandboxId === undefined ? {} : { sandboxId }),
    producer: {
      torpor: host.agentVersion,
      ...vmmPlatform(vm.description),
      kernelVersion: host.artifacts.kernel.version,
      envdVersion: host.artifacts.envdVersion,
    },
    vcpus: machine.vcpus,
    memoryMiB: machine.memoryMiB,
    diskMiB: request.diskMiB,
    artifacts: {
      kernel: machine.kernelPath,
      initramfs: machine.initramfsPath,
      ...(image === undefined ? {} : { base: image.path }),
      ...(agent === undefined ? {} : { agent: agent.path }),
    },
  };
}
