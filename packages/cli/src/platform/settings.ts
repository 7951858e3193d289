import { resolve } from 'node:path';
import type { VmmSetting } from '@torpor/agent';
import { TorporError } from '@torpor/protocol';

/** The data directory where nothing says otherwise. */
export const DEFAULT_DATA_DIR = '/var/lib/torpor';

const SETTINGS: readonly VmmSetting[] = ['qemu', 'firecracker', 'auto'];

type Environment = Readonly<Record<string, string | undefined>>;

/** Where kernels and images are: `TORPOR_CACHE_DIR`, else the data directory itself. */
export function cacheDirectory(dataDir: string, env: Environment): string {
  return resolve(env.TORPOR_CACHE_DIR ?? dataDir);
}

/** `TORPOR_ACCELERATOR`: forces what a probe would choose. Throws `invalid_request`. */
export function forcedAccelerator(env: Environment): 'kvm' | 'tcg' | undefined {
  const value = env.TORPOR_ACCELERATOR;
  if (value === undefined || value === '' || value === 'auto') return undefined;
  if (value === 'kvm' || value === 'tcg') return value;
  throw new TorporError('invalid_request', `TORPOR_ACCELERATOR is "${value}".`, {
    remedy: 'Set it to kvm, tcg or auto.',
  });
}

/** `TORPOR_VMM`: forces what would be chosen by what the host has. Throws `invalid_request`. */
export function vmmSetting(env: Environment): VmmSetting {
  const value = env.TORPOR_VMM;
  if (value === undefined || value === '') return 'auto';
  const setting = SETTINGS.find((known) => known === value);
  if (setting !== undefined) return setting;
  throw new TorporError('invalid_request', `TORPOR_VMM is "${value}".`, {
    remedy: `Set it to ${SETTINGS.join(', ')}.`,
  });
}
