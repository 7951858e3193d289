import { rm } from 'node:fs/promises';
import { BLOCK_SIZE, type Build, type ManifestDraft, type StagedBuild } from '@torpor/builds';
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
  /** Its vCPUs are stopped, and remain stopped. */
  readonly vm: MicroVm;
  /** What its RAM is compared with. */
  readonly base: DirtyBase;
  /** Size of the sandbox's disk. */
  readonly diskMiB: number;
  /** The sandbox whose reference keeps the build. */
  readonly owner: string;
  /** The identity of the guest; not set if it has none yet. */
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
 * Makes a build of a machine: state, what changed of its memory, and its disk. It is durable
 * and the owner's reference names it when this resolves; until then the machine is unchanged,
 * except for its VMM's record of dirty memory. Throws `disk_full`, `vmm_failed`,
 * `build_invalid`; then nothing is left of the attempt, and the reference is as it was.
 */
export async function commitMachine(
  host: HostContext,
  request: CommitRequest,
): Promise<CommittedMachine> {
  const { builds } = host;
  const { timer } = request;
  await using staged = await builds.stage();
  const capture = await captureInto(host, request, staged);
  await timer.measure('disk', () =>
    request.disk === 'move'
      ? staged.takeDisk(request.upperDisk)
      : staged.copyDisk(request.upperDisk),
  );
  await timer.measure('publish', () => staged.publish(manifestOf(host, request)));
  try {
    const build = await builds.get(staged.id);
    await builds.references.set('sandbox', request.owner, build.id);
    return { build, base: committedAs(build.id, capture) };
  } catch (error) {
    // The machine keeps running, and may write to the file that is the build's disk.
    await builds.discard(staged.id);
    throw error;
  }
}

/** Writes state and memory. */
async function captureInto(
  host: HostContext,
  { vm, base, timer }: CommitRequest,
  staged: StagedBuild,
): Promise<Capture> {
  const { id, memoryMiB } = vm.description.spec;
  // The memory there is needed only until the blocks that changed are in the build.
  const { statePath, scratchPath } = staged;
  await using resources = new AsyncDisposableStack();
  resources.defer(() => rm(scratchPath, { force: true }));
  const startedAt = performance.now();
  const capture = await vm.capture(base, { statePath, memoryPath: scratchPath });
  const hasWrittenMemory = capture.memoryPath === scratchPath;
  timer.add(hasWrittenMemory ? 'snapshot' : 'state', performance.now() - startedAt);
  if (capture.fullBecause !== undefined) {
    host.logger.info({ machine: id, reason: capture.fullBecause }, 'All memory was written');
  }
  const { memoryPath: path, holes } = capture;
  const blockCount = (memoryMiB * 2 ** 20) / BLOCK_SIZE;
  await timer.measure('memory', async () => {
    const parentId = buildOf(base);
    const parent = parentId === undefined ? undefined : await host.builds.get(parentId);
    await staged.writeMemory({ path, blockCount, holes }, parent);
  });
  return capture;
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
