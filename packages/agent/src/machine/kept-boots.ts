import { createHash, randomBytes } from 'node:crypto';
import { BOOTED, type MicroVm } from '@torpor/vmm';
import { checkRestorable, type HeldBuild } from '../builds/checkout.ts';
import { type CommittedMachine, commitMachine } from '../builds/commit.ts';
import { BOOT_PREFIX } from '../builds/reference-names.ts';
import { exec } from '../guest/exec.ts';
import type { GuestClient } from '../guest/guest-client.ts';
import type { BaseImage, HostContext } from '../host-context.ts';
import type { GuestSpec, MachineRequest } from './context.ts';
import { bootKernel } from './machine-spec.ts';

/*
 * A cold boot takes seconds, so the first of each shape is committed as a build once its
 * guest responds and before it has an identity, and later machines of that shape are restored
 * from it.
 */

/** The name of equal boots: a hash of all inputs of the guest's memory. */
export function bootName(host: HostContext, image: BaseImage, spec: GuestSpec): string {
  const { artifacts, vmm, kernelArguments, agentVersion } = host;
  const shape = [
    ...[image.path, artifacts.agentDrivePath, artifacts.initramfsPath, bootKernel(host)],
    ...[vmm.vmm, vmm.vmmVersion, vmm.machine, vmm.accelerator, vmm.cpuModel],
    ...[agentVersion, ...kernelArguments],
    ...[spec.vcpus, spec.memoryMiB, spec.diskSizeMiB].map(String),
  ];
  const key = createHash('sha256').update(shape.join('\0')).digest('hex').slice(0, 24);
  return `${BOOT_PREFIX}${key}`;
}

/** The kept boot of this name, leased; undefined if there is none. One that cannot be read is dropped. */
export async function findKeptBoot(
  host: HostContext,
  name: string,
): Promise<HeldBuild | undefined> {
  const { builds } = host;
  const id = builds.references.get('template', name);
  if (id === undefined) return undefined;
  using resources = new DisposableStack();
  resources.use(builds.lease(id));
  try {
    const build = await builds.check(id);
    await checkRestorable(host, build);
    const held = resources.move();
    return { build, [Symbol.dispose]: () => held.dispose() };
  } catch (error) {
    host.logger.warn({ build: id, err: error }, 'Kept boot could not be read and was discarded');
    if (builds.references.get('template', name) === id) {
      await builds.references.delete('template', name);
    }
    return undefined;
  }
}

/**
 * Commits a guest that has booted and has no identity yet, and resumes it. Returns undefined if
 * the boot could not be kept: the sandbox itself does not fail then.
 */
export async function keepBoot(
  { host, id, spec, timer }: MachineRequest,
  vm: MicroVm,
  guest: GuestClient,
  name: string,
): Promise<CommittedMachine | undefined> {
  const { references } = host.builds;
  try {
    await timer.measure('warm', () => warmUp(guest, host.stepTimeoutMs));
    await vm.pause();
    const committed = await commitMachine(host, {
      vm,
      diskMiB: spec.diskSizeMiB,
      owner: id,
      base: BOOTED,
      upperDisk: host.layout.upperDisk(id),
      disk: 'copy',
      timer,
    });
    await references.set('template', name, committed.build.id).catch((error: unknown) => {
      host.logger.warn({ sandbox: id, err: error }, 'Boot kept for this sandbox only');
    });
    return committed;
  } catch (error) {
    host.logger.warn({ sandbox: id, err: error }, 'Boot not kept');
    return undefined;
  } finally {
    await vm.resume();
  }
}

/**
 * Makes the guest handle the first requests of every sandbox once, an `/init` and a program, so
 * that their code is compiled and in memory after each restore. It gets no identity: no token,
 * no name, and every restore adds its own entropy.
 */
async function warmUp(guest: GuestClient, timeoutMs: number): Promise<void> {
  const entropy = randomBytes(64).toString('base64');
  const timestamp = new Date().toISOString();
  await guest.init({ timestamp, entropy }, { timeoutMs });
  const limits = { timeoutMs, maxOutputBytes: 1024 };
  const program = { cmd: '/bin/bash', args: ['-l', '-c', 'true'], envs: {} };
  // Without bash in the image, only less code is warmed up.
  await exec(guest, program, limits).catch(() => undefined);
}
