export {
  type AcceleratorChoice,
  emulationBecause,
  forcedChoice,
  kvmObstacle,
  type ProbeOptions,
  probeAccelerator,
} from './accelerator.ts';
export { readTail } from './console-log.ts';
export {
  BOOTED,
  buildOf,
  captureOf,
  committedAs,
  committedUnrecorded,
  type DirtyBase,
  restoredFrom,
} from './dirty-base.ts';
export type {
  Accelerator,
  Capture,
  CaptureTarget,
  DriveSpec,
  ExitReport,
  MachineDescription,
  MachineSpec,
  MemoryOrigin,
  MicroVm,
  NetworkSpec,
  RestoreSource,
  VmmCapabilities,
  VmmDriver,
  VmmKind,
} from './driver.ts';
export { guestErrors, withoutRoutine } from './error-lines.ts';
export {
  type FirecrackerInstallation,
  type FirecrackerLocations,
  findFirecracker,
} from './firecracker/find-firecracker.ts';
export {
  FirecrackerDriver,
  type FirecrackerDriverOptions,
} from './firecracker/firecracker-driver.ts';
export { killLeftovers } from './leftovers.ts';
export { isSamePlatform, restoreObstacle, type VmmPlatform, vmmPlatform } from './platform.ts';
export { PROBE_MESSAGE, probeInitramfs } from './probe-guest.ts';
export { findQemu, type QemuInstallation, type QemuMachineType } from './qemu/find-qemu.ts';
export { QemuDriver, type QemuDriverOptions } from './qemu/qemu-driver.ts';
export { ensureUffdShim } from './qemu/uffd-shim.ts';
