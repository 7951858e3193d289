import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { type Build, BuildFormatError } from '@torpor/builds';
import { type MicroVm, restoredFrom } from '@torpor/vmm';
import type { BaseImage, HostContext } from '../host-context.ts';
import type { NetworkSlot } from '../network/slot.ts';
import {
  acquireSlot,
  connectGuest,
  holdMachine,
  type MachineContext,
  type MachineRequest,
  makeRunFiles,
} from './context.ts';
import { guestReady, initGuest } from './identity.ts';
import { machineSpec } from './machine-spec.ts';
import type { RunningMachine } from './running-machine.ts';
import { ServedMemory } from './served-memory.ts';

/** How long after a restore its touched pages are recorded as its working set. */
const WORKING_SET_AFTER_MS = 5_000;

/**
 * Restores a machine from a build, until the guest has its identity. The sandbox's reference
 * names the build from then on. `image`: set if the build is a kept boot of it.
 */
export async function restore(
  request: MachineRequest,
  build: Build,
  image?: BaseImage,
): Promise<RunningMachine> {
  const { host, id, environment, signal, timer } = request;
  const { references } = host.builds;
  using _lease = host.builds.lease(build.id);
  if (references.get('sandbox', id) !== build.id) await references.set('sandbox', id, build.id);
  await using stack = new AsyncDisposableStack();
  const context: MachineContext = { ...request, stack };
  const slot = await timer.measure('network', () => acquireSlot(context));
  await makeRunFiles(context);
  signal.throwIfAborted();
  const restored = await timer.measure('restore', () => restoreMachine(context, build, slot));
  const { vm, servedAs, fault } = restored;
  await timer.measure('resume', () => vm.resume());
  const guest = connectGuest(context, slot);
  await timer.measure('guest', () => guestReady(host, { vm, guest, fault }, signal));
  await timer.measure('init', () =>
    initGuest(context, guest, {
      environment,
      defaultUser: image?.defaultUser,
      previousSandboxId: build.manifest.sandboxId,
    }),
  );
  signal.throwIfAborted();
  return {
    vm,
    slot,
    guest,
    base: restoredFrom(build.id),
    servedAs,
    fault,
    resources: stack.move(),
  };
}

interface RestoredMachine {
  readonly vm: MicroVm;
  /** The VM's id at the pager. */
  readonly servedAs: string;
  /** Why it was killed, if its memory could no longer be served. */
  readonly fault: () => string | undefined;
}

/**
 * Checks out a build for a sandbox: a private disk, memory served by the pager, and a VMM in
 * the given slot. Its vCPUs are stopped. The build must be referenced or leased, and have
 * passed `checkRestorable`.
 */
async function restoreMachine(
  context: MachineContext,
  build: Build,
  slot: NetworkSlot,
): Promise<RestoredMachine> {
  const { host, id, stack } = context;
  const { builds, pages } = host;
  await builds.materialise(build, host.layout.upperDisk(id));
  const files = await builds.open(build);
  const attempt = randomBytes(4).toString('hex');
  const servedAs = `${id}-${attempt}`;
  // A unique path: the pager removes the socket of an earlier attempt when that times out.
  const socketPath = join(host.layout.runDirectory(id), `pages-${attempt}`);
  const workingSet = await builds.workingSets.get(build.id);
  const served = new ServedMemory(host, servedAs);
  stack.defer(() => pages.release(servedAs));
  await pages.serve(
    {
      vm: servedAs,
      socketPath,
      ...files.memory,
      ...(workingSet === undefined ? {} : { workingSet }),
      connectTimeoutMs: host.stepTimeoutMs,
    },
    (reason) => served.fail(reason),
  );
  const vm = await host.driver.restore(machineSpec(context, slot, partsOf(build)), {
    statePath: files.statePath,
    memory: { kind: 'userfaultfd', socketPath },
  });
  await holdMachine(context, vm);
  served.vm = vm;
  if (workingSet === undefined) stack.defer(recordWorkingSet(host, servedAs, build.id));
  return { vm, servedAs, fault: () => served.reason };
}

function partsOf(build: Build) {
  const { memoryMiB, vcpus } = build.manifest;
  return {
    vcpus,
    memoryMiB,
    kernelPath: required(build, 'kernel'),
    initramfsPath: required(build, 'initramfs'),
    basePath: required(build, 'base'),
    agentDrivePath: required(build, 'agent'),
  };
}

function required(build: Build, role: string): string {
  const path = build.manifest.artifacts[role];
  if (path !== undefined) return path;
  throw new BuildFormatError(build.origin, `does not name its ${role}`);
}

/** Records, once, the pages that this restore touched. Returns a function that cancels it. */
function recordWorkingSet(host: HostContext, servedAs: string, buildId: string): () => void {
  const { builds, pages } = host;
  const timer = setTimeout(async () => {
    try {
      const description = await pages.describe(servedAs);
      if (description === undefined) return;
      await builds.workingSets.set(buildId, description.workingSet);
    } catch (error) {
      host.logger.warn({ build: buildId, err: error }, 'Working set not recorded');
    }
  }, WORKING_SET_AFTER_MS).unref();
  return () => clearTimeout(timer);
}
