import { release } from 'node:os';

/** What of the API a version has; a field that it does not know fails the call. */
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

/** Whether `version`, which starts as `1.2`, is this one or newer. False where it is no version. */
export function isVersionAtLeast(version: string, major: number, minor: number): boolean {
  const numbers = /^v?(\d+)\.(\d+)/.exec(version);
  if (numbers === null) return false;
  const [ownMajor, ownMinor] = [Number(numbers[1]), Number(numbers[2])];
  return ownMajor > major || (ownMajor === major && ownMinor >= minor);
}
