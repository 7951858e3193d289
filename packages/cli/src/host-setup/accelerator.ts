import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { TorporError } from '@torpor/protocol';
import { findQemu, probeAccelerator } from '@torpor/vmm';
import { cacheDirectory, forcedAccelerator } from '../platform/settings.ts';
import { isAccessible } from './checks.ts';
import type { Fact } from './requirement.ts';

/** Which accelerator sandboxes get, and why. Boots a probe only where KVM may be had and none was made. */
export async function acceleratorFact(
  dataDir: string,
  env: Readonly<Record<string, string | undefined>>,
): Promise<Fact> {
  const remedy =
    'Sandboxes run in pure emulation, which is several times slower; give this machine KVM, if it can have it.';
  try {
    const kernelPath = await findKernel(join(cacheDirectory(dataDir, env), 'kernels'));
    if (kernelPath === undefined && (await isAccessible('/dev/kvm'))) {
      const result = { state: 'found', detail: '/dev/kvm is tried at the first start' } as const;
      return { id: 'accelerator', result, remedy: '' };
    }
    const choice = await probeAccelerator({
      qemu: await findQemu(),
      kernelPath: kernelPath ?? '',
      stateDirectory: dataDir,
      forced: forcedAccelerator(env),
    });
    return {
      id: 'accelerator',
      result: {
        state: choice.accelerator === 'kvm' || choice.forced ? 'found' : 'degraded',
        detail: `${choice.accelerator}: ${choice.reason}`,
      },
      remedy,
    };
  } catch (reason) {
    const error = TorporError.from(reason);
    const result = { state: 'missing', detail: error.message } as const;
    return { id: 'accelerator', result, remedy: error.remedy };
  }
}

/** A guest kernel of the cache, whichever. */
async function findKernel(directory: string): Promise<string | undefined> {
  for (const key of await readdir(directory).catch(() => [])) {
    const path = join(directory, key, 'vmlinuz');
    if (await isAccessible(path)) return path;
  }
  return undefined;
}
