import { BOOTED, type MicroVm } from '@torpor/vmm';
import type { BaseImage } from '../host-context.ts';
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
import { keepBoot } from './kept-boots.ts';
import { bootKernel, machineSpec } from './machine-spec.ts';
import type { RunningMachine } from './running-machine.ts';

/**
 * Boots a machine from an image, up to a guest that has its identity. With `keepAs`, the
 * boot is committed under that name before the guest has an identity.
 */
export async function boot(
  request: MachineRequest,
  image: BaseImage,
  keepAs?: string,
): Promise<RunningMachine> {
  const { host, id, spec, environment, signal, timer } = request;
  await using stack = new AsyncDisposableStack();
  const context: MachineContext = { ...request, stack };
  const slot = await timer.measure('network', () => acquireSlot(context));
  await timer.measure('disk', async () => {
    await makeRunFiles(context);
    await host.createUpperDisk(host.layout.upperDisk(id), spec.diskSizeMiB);
  });
  signal.throwIfAborted();
  const vm = await timer.measure('vmm', () => startMachine(context, image, slot));
  const guest = connectGuest(context, slot);
  const fault = () => undefined;
  await timer.measure('boot', () => guestReady(host, { vm, guest, fault }, signal));
  const kept = keepAs === undefined ? undefined : await keepBoot(request, vm, guest, keepAs);
  const identity = { environment, defaultUser: image.defaultUser };
  await timer.measure('init', () => initGuest(context, guest, identity));
  signal.throwIfAborted();
  return {
    vm,
    slot,
    guest,
    base: kept?.base ?? BOOTED,
    fault,
    resources: stack.move(),
  };
}

/** Starts the VMM, with its vCPUs running. */
async function startMachine(
  context: MachineContext,
  image: BaseImage,
  slot: NetworkSlot,
): Promise<MicroVm> {
  const { host, spec } = context;
  const { initramfsPath, agentDrivePath } = host.artifacts;
  const machine = machineSpec(context, slot, {
    vcpus: spec.vcpus,
    memoryMiB: spec.memoryMiB,
    kernelPath: bootKernel(host),
    initramfsPath,
    basePath: image.path,
    agentDrivePath,
  });
  const vm = await host.driver.start(machine);
  await holdMachine(context, vm);
  return vm;
}
