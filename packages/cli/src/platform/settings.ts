import { resolve } from 'node:path';
import type { VmmSetting } from '@torpor/agent';
import { TorporError } from '@torpor/protocol';
import { InvalidArgumentError } from 'commander';
import { durationWithin } from '../arguments.ts';

/** The data directory where nothing says otherwise. */
export const DEFAULT_DATA_DIR = '/var/lib/torpor';

const SETTINGS: readonly VmmSetting[] = ['qemu', 'firecracker', 'auto'];

/** How long a guest may take from its start to answering; the value is in milliseconds. */
export const guestTimeout = durationWithin('100ms', '1h');

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

/** `TORPOR_GUEST_TIMEOUT`, in milliseconds; undefined unless set. Throws `invalid_request`. */
export function guestTimeoutSetting(env: Environment): number | undefined {
  return parsedSetting(env, 'TORPOR_GUEST_TIMEOUT', guestTimeout);
}

/** A variable that is read as the option of the same meaning is. Throws `invalid_request`. */
export function parsedSetting<T>(
  env: Environment,
  name: string,
  parse: (text: string) => T,
): T | undefined {
  const value = env[name];
  if (value === undefined || value === '') return undefined;
  try {
    return parse(value);
  } catch (error) {
    if (!(error instanceof InvalidArgumentError)) throw error;
    throw new TorporError('invalid_request', `${name} is "${value}".`, { remedy: error.message });
  }
}
