import { link, open, writeFile } from 'node:fs/promises';
import {
  applyChanges,
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
import { type MicroVm, vmmPlatform } from '@torpor/vmm';
import type { HostContext } from '../host-context.ts';
import type { PhaseTimer } from '../phase-timer.ts';
import { type MemoryImage, saveMachine } from './memory-image.ts';

export interface CommitRequest {
  /** Its vCPUs are stopped, and stay so. */
  readonly vm: MicroVm;
  /** Size of the sandbox's disk. */
  readonly diskMiB: number;
  /** The sandbox whose reference keeps the build. */
  readonly owner: string;
  /** Whose guest it is; absent for one that has no identity yet. */
  readonly sandboxId?: string;
  /** The build that the guest's memory is to be compared with. */
  readonly parentId?: string;
  /** See `RunningMachine`. */
  readonly parentSnapshot: number | undefined;
  /** Whether the pager fills the memory file: what is missing in it is as in the parent. */
  readonly lazy: boolean;
  readonly upperDisk: string;
  /** `move`: the machine is released after this, so its disk may become the build's. `copy`: it keeps running. */
  readonly disk: 'move' | 'copy';
  readonly timer: PhaseTimer;
}

export interface CommittedMachine {
  readonly build: Build;
  /** Which snapshot of the machine the build is made of; undefined where RAM is a file. */
  readonly snapshot: number | undefined;
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
  const { checksum, snapshot } = await captureInto(host, request, staged);
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
    return { build, snapshot };
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
): Promise<{ readonly checksum: string; readonly snapshot: number | undefined }> {
  const { parentId, timer } = request;
  await using image = await saveMachine(host, request, staged);
  const checksum = await timer.measure('memory', async () => {
    const parent = parentId === undefined ? undefined : await host.snapshots.builds.get(parentId);
    return await captureImage(host, image, parent, staged);
  });
  return { checksum, snapshot: image.snapshot };
}

async function captureImage(
  host: HostContext,
  image: MemoryImage,
  parent: Build | undefined,
  staged: StagedBuild,
): Promise<string> {
  const { builds } = host.snapshots;
  const { blockCount } = image;
  await using resources = new AsyncDisposableStack();
  const memory = resources.use(await open(image.path));
  const output = resources.use(await open(staged.path(BUILD_FILES.memory), 'wx', 0o600));
  const reader = parent && resources.use(await builds.openMemory(parent));
  const capture = await captureMemory(
    {
      memory,
      blockCount,
      extents: dataExtents(memory),
      holes: image.holes,
      ...(reader === undefined ? {} : { parent: reader }),
    },
    output,
  );
  const before = parent?.header.mapping ?? zeroMapping(blockCount);
  const header = {
    generation: parent === undefined ? 0 : parent.header.generation + 1,
    buildId: staged.id,
    baseBuildId: parent?.header.baseBuildId ?? staged.id,
    mapping: applyChanges(before, staged.id, capture.changes),
  };
  await writeFile(staged.path(BUILD_FILES.header), writeMemoryHeader(header), { mode: 0o600 });
  return formatChecksum(capture.checksum);
}

function manifestOf(host: HostContext, request: CommitRequest): ManifestDraft {
  const { vm, sandboxId, parentId } = request;
  const { spec: machine } = vm.description;
  const [base, agent] = machine.drives;
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
      ...(base === undefined ? {} : { base: base.path }),
      ...(agent === undefined ? {} : { agent: agent.path }),
    },
  };
}
