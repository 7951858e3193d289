export { type AcceleratorChoice, type ProbeOptions, probeAccelerator } from './accelerator.ts';
export type {
  Accelerator,
  DriveSpec,
  ExitReport,
  MachineDescription,
  MachineSpec,
  MicroVm,
  NetworkSpec,
  RestoreSource,
  VmmDriver,
  VmmKind,
} from './driver.ts';
export { PROBE_WORDS, probeInitramfs } from './probe-guest.ts';
export { findQemu, type QemuInstallation, type QemuMachineType } from './qemu/find-qemu.ts';
export { killLeftovers } from './qemu/leftovers.ts';
export { QemuDriver, type QemuDriverOptions } from './qemu/qemu-driver.ts';
export { ensureUffdShim } from './qemu/uffd-shim.ts';
