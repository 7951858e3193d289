import { cpus } from 'node:os';
import type { Accelerator, MachineDescription, VmmKind } from './driver.ts';
import { snapshotFormat } from './firecracker/version.ts';
import { machineOf } from './qemu/command-line.ts';
import { machineTypeOf, parseVersion } from './qemu/find-qemu.ts';

/** What a machine's saved state depends on, beyond the machine's own shape. */
export interface VmmPlatform {
  readonly vmm: VmmKind;
  readonly vmmVersion: string;
  readonly accelerator: Accelerator;
  /** Machine type: `microvm`, in emulation `microvm,pic=off`, `q35` or `firecracker`. */
  readonly machine: string;
  /** The processor that the guest sees: the host's own under KVM. */
  readonly cpuModel: string;
}

/** As the kernel reports it; any string is valid in a manifest. */
const MAX_PROCESSOR_LENGTH = 200;

/** The platform of machines that a VMM runs on this host. */
export function vmmPlatform({
  driver,
  vmmVersion,
  accelerator,
}: Pick<MachineDescription, 'driver' | 'vmmVersion' | 'accelerator'>): VmmPlatform {
  return {
    vmm: driver,
    vmmVersion,
    accelerator,
    machine: VMMS[driver].machine(vmmVersion, accelerator),
    cpuModel: accelerator === 'kvm' ? hostProcessor() : 'max',
  };
}

export function isSamePlatform(one: VmmPlatform, other: VmmPlatform): boolean {
  const keys = ['vmm', 'vmmVersion', 'accelerator', 'machine', 'cpuModel'] as const;
  return keys.every((key) => one[key] === other[key]);
}

export interface RestoreObstacle {
  /** What is wrong with the saved state, as a predicate to follow its name. */
  readonly what: string;
  readonly remedy: string;
}

/** What a saved state records about its VMM, even one that this host does not run. */
interface VmmFacts {
  readonly name: string;
  /** Machine type: the part that decides which saved states it can load. */
  readonly machine: (version: string, accelerator: Accelerator) => string;
  /** Versions with the same format read each other's states, given the same machine type. */
  readonly stateFormat: (version: string) => string;
}

/**
 * Firecracker reads snapshots of its own data format only, QEMU is taken to read those of
 * the same major version.
 */
const VMMS: Readonly<Record<VmmKind, VmmFacts>> = {
  qemu: {
    name: 'QEMU',
    machine: (version, accelerator) => machineOf(machineTypeOf(version), accelerator),
    stateFormat: (version) => String(parseVersion(version).major),
  },
  firecracker: {
    name: 'Firecracker',
    machine: () => 'firecracker',
    stateFormat: snapshotFormat,
  },
};

/**
 * Why a state that was saved on one platform cannot be restored on another; undefined
 * if it can.
 */
export function restoreObstacle(saved: VmmPlatform, own: VmmPlatform): RestoreObstacle | undefined {
  const [theirs, ours] = [saved, own].map(
    ({ vmm, vmmVersion }) => `${VMMS[vmm].name} ${vmmVersion}`,
  );
  if (saved.vmm !== own.vmm) {
    const what = `was made with ${theirs}, but this host runs ${ours}`;
    return { what, remedy: `Start Torpor with TORPOR_VMM=${saved.vmm} to use it.` };
  }
  const { stateFormat } = VMMS[own.vmm];
  if (stateFormat(saved.vmmVersion) !== stateFormat(own.vmmVersion)) {
    const what = `was made with ${theirs}, whose saved states ${ours} cannot read`;
    const variable = `TORPOR_${saved.vmm.toUpperCase()}`;
    return { what, remedy: `Set ${variable} to a ${theirs}, or delete what was made from it.` };
  }
  if (saved.accelerator !== own.accelerator) {
    const what = `was made under ${saved.accelerator}, but this host uses ${own.accelerator}`;
    return { what, remedy: `Start Torpor with TORPOR_ACCELERATOR=${saved.accelerator} to use it.` };
  }
  // The machine type depends on the accelerator, too.
  if (saved.machine !== own.machine) {
    const what = `was made with the machine type ${saved.machine}, but this version of Torpor uses ${own.machine}`;
    const remedy = 'Use the version of Torpor that made it, or delete what was made from it.';
    return { what, remedy };
  }
  if (saved.cpuModel !== own.cpuModel) {
    const what = `was made on the processor ${saved.cpuModel}, but this host has ${own.cpuModel}`;
    return { what, remedy: 'Restore it on such a machine, or delete what was made from it.' };
  }
  return undefined;
}

function hostProcessor(): string {
  const model = cpus()[0]?.model.trim() ?? '';
  return model === '' ? 'host' : model.slice(0, MAX_PROCESSOR_LENGTH);
}
