import type { HostSettings } from '@torpor/agent';
import type { Config } from '@torpor/control-plane/config';

/** The settings of the host, in the form that its agent expects. */
export function hostSettings(config: Config): HostSettings {
  const { dataDir, cacheDir, vmm, accelerator, qemu, firecracker, jailer } = config;
  return {
    dataDir,
    cacheDir,
    vmm,
    programs: { qemu, firecracker, jailer },
    forcedAccelerator: accelerator === 'auto' ? undefined : accelerator,
  };
}
