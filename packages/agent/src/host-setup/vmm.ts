import { findGuestKernel, kernelArguments } from '@torpor/images';
import { findProgram } from '@torpor/linux';
import { TorporError } from '@torpor/protocol';
import { findFirecracker } from '@torpor/vmm';
import type { HostSettings } from '../config.ts';
import { chooseVmm, type VmmChoice } from '../vmm-choice.ts';
import { isAccessible } from './checks.ts';
import type { Fact } from './requirement.ts';

export interface VmmFactsOptions {
  /** Try KVM again, even if the result of an earlier probe is known. */
  readonly probe?: boolean | undefined;
  /** Called before guests are booted for the probe. */
  readonly onProbe?: () => void;
}

/** The facts about Firecracker, and the chosen accelerator and VMM with the reasons. */
export async function vmmFacts(
  settings: HostSettings,
  options: VmmFactsOptions = {},
): Promise<Fact[]> {
  return [await firecrackerFact(settings), ...(await choiceFacts(settings, options))];
}

/** Firecracker and its jailer are optional beside QEMU. */
async function firecrackerFact({ programs }: HostSettings): Promise<Fact> {
  const id = 'firecracker';
  const firecracker = programs?.firecracker ?? (await findProgram('firecracker'));
  if (firecracker === undefined) {
    const detail = 'not installed, and not needed: QEMU is used';
    return { id, result: { state: 'absent', detail }, remedy: '' };
  }
  try {
    const found = await findFirecracker({ firecracker, jailer: programs?.jailer });
    const jailer = found.jailerPath ?? 'no jailer: it runs without a chroot';
    const detail = `${found.path} ${found.version}, ${jailer}`;
    return { id, result: { state: 'found', detail }, remedy: '' };
  } catch (reason) {
    const { message, remedy } = TorporError.from(reason);
    return { id, result: { state: 'degraded', detail: message }, remedy };
  }
}

/** Boots a probe if KVM may work and there is no earlier result, or if `probe` is set. */
async function choiceFacts(
  { dataDir, cacheDir, vmm, programs, forcedAccelerator }: HostSettings,
  { probe = false, onProbe }: VmmFactsOptions,
): Promise<Fact[]> {
  try {
    const kernel = await findGuestKernel(cacheDir);
    if (
      kernel === undefined &&
      forcedAccelerator === undefined &&
      (await isAccessible('/dev/kvm'))
    ) {
      return [
        fact('accelerator', 'found', 'not known yet: the first start tries /dev/kvm'),
        fact('vmm', 'found', 'not chosen yet: the first start tries /dev/kvm'),
      ];
    }
    const choice = await chooseVmm({
      setting: vmm,
      programs,
      kernelPath: kernel?.qemuPath ?? '',
      kernelArguments: kernelArguments(),
      stateDirectory: dataDir,
      forcedAccelerator,
      refresh: probe,
      ...(onProbe === undefined ? {} : { onProbe }),
    });
    return factsOf(choice);
  } catch (reason) {
    const { message, remedy } = TorporError.from(reason);
    return [fact('vmm', 'missing', message, remedy)];
  }
}

function factsOf({ accelerator, platform, reason }: VmmChoice): Fact[] {
  const isFast = accelerator.accelerator === 'kvm' || accelerator.forced;
  return [
    fact(
      'accelerator',
      isFast ? 'found' : 'degraded',
      `${accelerator.accelerator}: ${accelerator.reason}`,
      'Sandboxes run in pure emulation, which is several times slower; make KVM available on this machine if you can.',
    ),
    fact('vmm', 'found', `${platform.vmm} ${platform.vmmVersion}: ${reason}`),
  ];
}

function fact(id: string, state: Fact['result']['state'], detail: string, remedy = ''): Fact {
  return { id, result: { state, detail }, remedy };
}
