import { TorporError } from '@torpor/protocol';
import {
  type Accelerator,
  type AcceleratorChoice,
  emulationBecause,
  type FirecrackerInstallation,
  findFirecracker,
  findQemu,
  forcedChoice,
  kvmObstacle,
  type ProbeOptions,
  probeAccelerator,
  type QemuInstallation,
  type VmmKind,
  type VmmPlatform,
  vmmPlatform,
} from '@torpor/vmm';

/*
 * Which VMM runs the sandboxes of a host. Firecracker is preferred where it can run, which
 * needs a working KVM. KVM is tested by a boot in QEMU, so QEMU is needed on every host except
 * one where both Firecracker and `kvm` are forced.
 */

/** `auto`: Firecracker where there is one and KVM works, else QEMU. */
export type VmmSetting = 'auto' | VmmKind;

/**
 * Where the programs are. If omitted, a program is searched on the `PATH`, a jailer beside its
 * Firecracker first.
 */
export interface VmmPrograms {
  readonly qemu?: string | undefined;
  readonly firecracker?: string | undefined;
  readonly jailer?: string | undefined;
}

export interface VmmChoiceOptions {
  readonly setting?: VmmSetting | undefined;
  readonly programs?: VmmPrograms | undefined;
  /** The guest's kernel and its command line, for a probe boot in QEMU. */
  readonly kernelPath: string;
  readonly kernelArguments?: readonly string[];
  /** The directory of the results of probe boots. */
  readonly stateDirectory: string;
  readonly forcedAccelerator?: Accelerator | undefined;
  /** Probe again, even if there is a result. */
  readonly refresh?: boolean;
  /** Called before a probe that boots. */
  readonly onProbe?: () => void;
}

/** The checks of a host. */
export interface HostProbes {
  readonly findQemu: typeof findQemu;
  readonly findFirecracker: typeof findFirecracker;
  readonly kvmObstacle: () => Promise<string | undefined>;
  readonly probeAccelerator: typeof probeAccelerator;
}

export type VmmInstallation =
  | { readonly kind: 'qemu'; readonly qemu: QemuInstallation }
  | { readonly kind: 'firecracker'; readonly firecracker: FirecrackerInstallation };

export interface VmmChoice {
  readonly installation: VmmInstallation;
  readonly accelerator: AcceleratorChoice;
  readonly platform: VmmPlatform;
  readonly programs: VmmPrograms;
  /** Why this VMM was chosen, human-readable. */
  readonly reason: string;
}

const HOST: HostProbes = { findQemu, findFirecracker, kvmObstacle, probeAccelerator };

/**
 * Chooses the VMM, as set or by what the host has. Throws `host_setup` with the remedy for what
 * is missing: the VMM that is forced, a working KVM for a forced Firecracker, or the QEMU that
 * tests KVM.
 */
export async function chooseVmm(
  options: VmmChoiceOptions,
  host: HostProbes = HOST,
): Promise<VmmChoice> {
  const { setting = 'auto' } = options;
  if (setting === 'qemu') return chooseQemu(options, host, 'Forced by the setting vmm = qemu.');
  if (setting === 'firecracker') return forceFirecracker(options, host);
  let firecracker: FirecrackerInstallation;
  try {
    firecracker = await host.findFirecracker(options.programs);
  } catch (error) {
    const { code, message } = TorporError.from(error);
    if (code !== 'host_setup') throw error;
    return chooseQemu(options, host, message);
  }
  const accelerator = await chooseAccelerator(options, host);
  if (accelerator.accelerator === 'kvm') {
    const reason = `Firecracker is installed (${firecracker.path}), and KVM works.`;
    return chosen(options, { kind: 'firecracker', firecracker }, accelerator, reason);
  }
  const reason = `Firecracker needs a working KVM. ${accelerator.reason}`;
  const qemu = await host.findQemu(options.programs?.qemu);
  return chosen(options, { kind: 'qemu', qemu }, accelerator, reason);
}

async function forceFirecracker(options: VmmChoiceOptions, host: HostProbes): Promise<VmmChoice> {
  const firecracker = await host.findFirecracker(options.programs);
  const accelerator = await chooseAccelerator(options, host);
  if (accelerator.accelerator !== 'kvm') {
    const what = `Firecracker is forced by the setting vmm, but it needs a working KVM. ${accelerator.reason}`;
    const remedy = accelerator.forced
      ? 'Unset TORPOR_ACCELERATOR, or set TORPOR_VMM to qemu.'
      : 'Make KVM available on this machine, or set TORPOR_VMM to qemu.';
    throw new TorporError('host_setup', what, { remedy });
  }
  const reason = 'Forced by the setting vmm = firecracker.';
  return chosen(options, { kind: 'firecracker', firecracker }, accelerator, reason);
}

async function chooseQemu(
  options: VmmChoiceOptions,
  host: HostProbes,
  reason: string,
): Promise<VmmChoice> {
  const qemu = await host.findQemu(options.programs?.qemu);
  const choice = await host.probeAccelerator(probeOptions(options, qemu));
  return chosen(options, { kind: 'qemu', qemu }, choice, reason);
}

/** For an installed Firecracker: without QEMU if no probe boot is needed. */
async function chooseAccelerator(
  options: VmmChoiceOptions,
  host: HostProbes,
): Promise<AcceleratorChoice> {
  const { forcedAccelerator: forced } = options;
  const obstacle = await host.kvmObstacle();
  if (forced === 'kvm' && obstacle !== undefined) {
    throw new TorporError(
      'host_setup',
      `KVM is forced by the setting accelerator, but ${obstacle}.`,
      {
        remedy: 'Make KVM available on this machine, or unset TORPOR_ACCELERATOR.',
      },
    );
  }
  if (forced !== undefined) return forcedChoice(forced);
  if (obstacle !== undefined) return emulationBecause(obstacle);
  const qemu = await host.findQemu(options.programs?.qemu).catch((error: unknown) => {
    const { message, remedy } = TorporError.from(error);
    const what = `Finding out whether KVM works needs QEMU. ${message}`;
    throw new TorporError('host_setup', what, {
      remedy: `${remedy} If you know that KVM works, set TORPOR_ACCELERATOR=kvm instead.`,
      cause: error,
    });
  });
  return host.probeAccelerator(probeOptions(options, qemu));
}

function probeOptions(options: VmmChoiceOptions, qemu: QemuInstallation): ProbeOptions {
  const { setting: _setting, programs: _programs, forcedAccelerator: forced, ...rest } = options;
  return { ...rest, qemu, forced };
}

function chosen(
  { programs = {} }: VmmChoiceOptions,
  installation: VmmInstallation,
  accelerator: AcceleratorChoice,
  reason: string,
): VmmChoice {
  const platform = vmmPlatform({
    driver: installation.kind,
    vmmVersion:
      installation.kind === 'qemu' ? installation.qemu.version : installation.firecracker.version,
    accelerator: accelerator.accelerator,
  });
  return { installation, accelerator, platform, programs, reason };
}
