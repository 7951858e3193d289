import type { Build } from '@torpor/builds';
import type { KeyedLock } from '../concurrency/keyed-lock.ts';
import type { Semaphore } from '../concurrency/semaphore.ts';
import { boot } from './boot.ts';
import type { MachineRequest } from './context.ts';
import { bootName, findKeptBoot } from './kept-boots.ts';
import { restore } from './restore.ts';
import type { RunningMachine } from './running-machine.ts';

export const DEFAULT_TEMPLATE = 'base';

/** The limits on concurrent boots of a host. */
export interface BootLimits {
  /** How many machines start at a time. */
  readonly machines: Semaphore;
  /** One boot at a time for each shape of machine: those that wait restore its kept boot. */
  readonly shapes: KeyedLock;
}

export interface BringUpRequest extends MachineRequest {
  /** The build to check out; if omitted, the image in the spec is booted. */
  readonly build?: Build | undefined;
  readonly boots: BootLimits;
}

/**
 * Starts the machine of a sandbox, from a build or an image, until the guest has its identity.
 * On failure nothing is left of it but the sandbox's reference to the build.
 */
export async function bringUp(request: BringUpRequest): Promise<RunningMachine> {
  const queuedAt = performance.now();
  return request.boots.machines.run(() => {
    request.timer.add('queue', performance.now() - queuedAt);
    request.signal.throwIfAborted();
    return request.build === undefined
      ? bootOrRestoreKept(request)
      : restore(request, request.build);
  });
}

/** Restores the kept boot of the image in this shape, or boots the image and keeps the boot. */
async function bootOrRestoreKept(request: BringUpRequest): Promise<RunningMachine> {
  const { host, spec, boots } = request;
  const image = await host.images.resolve(spec.templateId);
  if (!host.keepBoots) return boot(request, image);
  const name = bootName(host, image, spec);
  const restoreKept = async () => {
    using kept = await findKeptBoot(host, name);
    return kept && (await restore(request, kept.build, image));
  };
  return (
    (await restoreKept()) ??
    (await boots.shapes.with(name, async () => {
      return (await restoreKept()) ?? (await boot(request, image, name));
    }))
  );
}
