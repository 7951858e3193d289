import { createHash, randomBytes } from 'node:crypto';
import type { Build } from '@torpor/builds';
import { TorporError } from '@torpor/protocol';
import type { MicroVm } from '@torpor/vmm';
import { type CommittedMachine, commitMachine } from '../builds/commit.ts';
import type { KeyedLock } from '../concurrency/keyed-lock.ts';
import { exec } from '../guest/exec.ts';
import type { GuestClient } from '../guest/guest-client.ts';
import type { BaseImage, HostContext } from '../host-context.ts';
import { DEFAULT_TEMPLATE } from '../lifecycle/create-request.ts';
import type { PhaseTimer } from '../phase-timer.ts';
import type { SandboxSpec } from '../registry/record.ts';
import type { RunningMachine } from '../registry/sandbox.ts';
import { checkRestorable, restoreMachine } from './restore.ts';
import * as steps from './steps.ts';
import { waitForGuest } from './wait-for-guest.ts';

export interface BringUpRequest {
  readonly host: HostContext;
  readonly id: string;
  readonly spec: SandboxSpec;
  readonly uid: number;
  /** Index of the network slot that the sandbox had before. */
  readonly preferredSlot?: number | undefined;
  readonly environment: Readonly<Record<string, string>>;
  /** What to check out; absent: the image that the spec names. */
  readonly build?: Build | undefined;
  /** One boot at a time for each shape of machine: whoever waits restores what it left. */
  readonly boots: KeyedLock;
  readonly signal: AbortSignal;
  readonly timer: PhaseTimer;
}

/**
 * Makes the machine of a sandbox, from a build or an image, up to a guest that has
 * been told who it is. If anything fails, nothing is left of it but the sandbox's
 * reference to the build.
 */
export async function bringUp(request: BringUpRequest): Promise<RunningMachine> {
  const { host, spec, build } = request;
  if (build !== undefined) return restore(request, build);
  const image = await host.images.resolve(spec.templateId || DEFAULT_TEMPLATE);
  if (!host.snapshots.keepBoots) return boot(request, image);
  const name = bootName(host, image, spec);
  const restored = await restoreKept(request, image, name);
  if (restored !== undefined) return restored;
  return request.boots.with(
    name,
    async () => (await restoreKept(request, image, name)) ?? boot(request, image, name),
  );
}

async function restore(
  request: BringUpRequest,
  build: Build,
  image?: BaseImage,
): Promise<RunningMachine> {
  const { host, id, environment, signal, timer } = request;
  const { references } = host.snapshots.builds;
  using _lease = host.snapshots.builds.lease(build.id);
  if (references.get('sandbox', id) !== build.id) await references.set('sandbox', id, build.id);
  await using stack = new AsyncDisposableStack();
  const context: steps.CreateContext = { ...request, stack };
  const slot = await timer.measure('network', () => steps.acquireSlot(context));
  await steps.makeRunFiles(context);
  signal.throwIfAborted();
  const restored = await timer.measure('restore', () => restoreMachine(context, build, slot));
  const { vm, servedAs, fault } = restored;
  await timer.measure('resume', () => vm.resume());
  const guest = connect(context, slot);
  await timer.measure('guest', () => ready(request, vm, guest, fault));
  await timer.measure('init', () =>
    steps.initGuest(context, guest, {
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
    parentId: build.id,
    parentSnapshot: firstSnapshot(vm),
    servedAs,
    fault,
    resources: stack.move(),
  };
}

async function boot(
  request: BringUpRequest,
  image: BaseImage,
  keepAs?: string,
): Promise<RunningMachine> {
  const { host, id, spec, environment, signal, timer } = request;
  await using stack = new AsyncDisposableStack();
  const context: steps.CreateContext = { ...request, stack };
  const slot = await timer.measure('network', () => steps.acquireSlot(context));
  await timer.measure('disk', async () => {
    await steps.makeRunFiles(context);
    await host.createUpperDisk(host.layout.upperDisk(id), spec.diskSizeMiB);
  });
  signal.throwIfAborted();
  const vm = await timer.measure('vmm', () => steps.startMachine(context, image, slot));
  const guest = connect(context, slot);
  await timer.measure('boot', () => ready(request, vm, guest, () => undefined));
  const kept = keepAs === undefined ? undefined : await keepBoot(request, vm, guest, keepAs);
  await timer.measure('init', () =>
    steps.initGuest(context, guest, { environment, defaultUser: image.defaultUser }),
  );
  signal.throwIfAborted();
  return {
    vm,
    slot,
    guest,
    parentId: kept?.build.id,
    parentSnapshot: kept === undefined ? firstSnapshot(vm) : kept.snapshot,
    fault: () => undefined,
    resources: stack.move(),
  };
}

/** The number of what a machine began with, where snapshots of it are numbered. */
function firstSnapshot(vm: MicroVm): number | undefined {
  return vm.snapshot === undefined ? undefined : 0;
}

function connect(context: steps.CreateContext, slot: RunningMachine['slot']): GuestClient {
  const { host, id, stack } = context;
  const guest = steps.connectGuest(host, id, slot);
  stack.defer(() =>
    guest.close(new TorporError('invalid_state', `Sandbox ${id} has been destroyed.`)),
  );
  return guest;
}

async function ready(
  { host, signal }: BringUpRequest,
  vm: MicroVm,
  guest: GuestClient,
  fault: () => string | undefined,
): Promise<void> {
  try {
    await waitForGuest({ vm, guest, timeoutMs: host.guestTimeoutMs, signal });
  } catch (error) {
    const reason = fault();
    if (reason === undefined) throw error;
    throw new TorporError('vmm_failed', reason, { cause: error });
  }
}

/**
 * Commits a guest that has booted and has no identity yet, and lets it run on. A
 * sandbox does not fail because its boot could not be kept: undefined then.
 */
async function keepBoot(
  { host, id, spec, timer }: BringUpRequest,
  vm: MicroVm,
  guest: GuestClient,
  name: string,
): Promise<CommittedMachine | undefined> {
  const { references } = host.snapshots.builds;
  const { upperDisk } = host.layout;
  try {
    await timer.measure('warm', () => warmUp(guest, host.stepTimeoutMs));
    await vm.pause();
    const committed = await commitMachine(host, {
      vm,
      spec,
      owner: id,
      parentSnapshot: firstSnapshot(vm),
      lazy: false,
      upperDisk: upperDisk(id),
      disk: 'copy',
      timer,
    });
    await references.set('template', name, committed.build.id).catch((error: unknown) => {
      host.logger.warn({ sandbox: id, err: error }, 'boot kept for this sandbox only');
    });
    return committed;
  } catch (error) {
    host.logger.warn({ sandbox: id, err: error }, 'boot not kept');
    return undefined;
  } finally {
    await vm.resume();
  }
}

/**
 * Has the guest do once what every sandbox does first, an `/init` and a program, so that
 * its code is compiled and in memory in all that are restored. It gets no identity: no
 * token, no name, and every restore brings entropy of its own.
 */
async function warmUp(guest: GuestClient, timeoutMs: number): Promise<void> {
  const entropy = randomBytes(64).toString('base64');
  const timestamp = new Date().toISOString();
  await guest.init({ timestamp, entropy }, { timeoutMs });
  const limits = { timeoutMs, maxOutputBytes: 1024 };
  const program = { cmd: '/bin/bash', args: ['-l', '-c', 'true'], envs: {} };
  // An image without bash is only less warm.
  await exec(guest, program, limits).catch(() => undefined);
}

/** Restores the kept boot of a shape; undefined if there is none. One that cannot be read is forgotten. */
async function restoreKept(
  request: BringUpRequest,
  image: BaseImage,
  name: string,
): Promise<RunningMachine | undefined> {
  const { host } = request;
  const { builds } = host.snapshots;
  const id = builds.references.get('template', name);
  if (id === undefined) return undefined;
  using _lease = builds.lease(id);
  let build: Build;
  try {
    build = await builds.check(id);
    await checkRestorable(host, build);
  } catch (error) {
    host.logger.warn({ build: id, err: error }, 'kept boot unreadable, booting anew');
    if (builds.references.get('template', name) === id) {
      await builds.references.delete('template', name);
    }
    return undefined;
  }
  return await restore(request, build, image);
}

/** Names the boots that are alike: everything that the guest's memory depends on. */
function bootName(host: HostContext, image: BaseImage, spec: SandboxSpec): string {
  const { artifacts, vmm, kernelArguments, agentVersion } = host;
  const shape = [
    ...[image.path, artifacts.agentDrivePath, artifacts.initramfsPath, steps.bootKernel(host)],
    ...[vmm.vmm, vmm.vmmVersion, vmm.machine, vmm.accelerator, vmm.cpuModel],
    ...[agentVersion, ...kernelArguments],
    ...[spec.vcpus, spec.memoryMiB, spec.diskSizeMiB].map(String),
  ];
  const key = createHash('sha256').update(shape.join('\0')).digest('hex').slice(0, 24);
  return `boot-${key}`;
}
