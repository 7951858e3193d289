import { release } from 'node:os';

/** The API features of a version; a field that it does not know fails the call. */
export interface ApiFeatures {
  /** `network_overrides` on load, from 1.12. */
  readonly networkOverrides: boolean;
  /** `track_dirty_pages` on load, from 1.13; before that it was called `enable_diff_snapshots`. */
  readonly tracksDirtyPagesOnLoad: boolean;
  /** `clock_realtime` on load, from 1.16, with the KVM of Linux 5.16 or newer. */
  readonly clockRealtime: boolean;
}

/**
 * What Firecracker of this version can be asked for on a host with this kernel
 * (`uname -r`). Source: CHANGELOG.md and the swagger file of Firecracker.
 */
export function featuresOf(version: string, hostKernel: string = release()): ApiFeatures {
  return {
    networkOverrides: isVersionAtLeast(version, 1, 12),
    tracksDirtyPagesOnLoad: isVersionAtLeast(version, 1, 13),
    clockRealtime: isVersionAtLeast(version, 1, 16) && isVersionAtLeast(hostKernel, 5, 16),
  };
}

/** RAM beyond it is a second slot of KVM's, above the hole for devices. */
const FIRST_SLOT_MIB = 3 * 1024;

/**
 * Whether a diff of a machine of this size has all that was written. With more than one slot of
 * RAM it is incomplete before 1.14.2 (Firecracker's #5705).
 */
export function hasSoundDiffs(version: string, memoryMiB: number): boolean {
  if (memoryMiB <= FIRST_SLOT_MIB || isVersionAtLeast(version, 1, 15)) return true;
  const patch = Number(/^v?1\.14\.(\d+)/.exec(version)?.[1] ?? 0);
  return patch >= 2;
}

/**
 * Names the format of a version's snapshots: one is read by the versions of the same
 * format only. Each minor version has had its own, but for 1.14, which kept that of 1.13.
 * Source: docs/snapshotting/versioning.md of Firecracker.
 */
export function snapshotFormat(version: string): string {
  const [, minor = version] = /^v?(\d+\.\d+)/.exec(version) ?? [];
  return minor === '1.14' ? '1.13' : minor;
}

/** Whether `version`, which starts as `1.2`, is this one or newer. False where it is no version. */
export function isVersionAtLeast(version: string, major: number, minor: number): boolean {
  const numbers = /^v?(\d+)\.(\d+)/.exec(version);
  if (numbers === null) return false;
  const [ownMajor, ownMinor] = [Number(numbers[1]), Number(numbers[2])];
  return ownMajor > major || (ownMajor === major && ownMinor >= minor);
}
