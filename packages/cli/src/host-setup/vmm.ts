import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { chooseVmm, type VmmChoice } from '@torpor/agent';
import { TorporError } from '@torpor/protocol';
import { findFirecracker } from '@torpor/vmm';
import { cacheDirectory, forcedAccelerator, vmmSetting } from '../platform/settings.ts';
import { findProgram, isAccessible } from './checks.ts';
import type { Fact } from './requirement.ts';

type Environment = Readonly<Record<string, string | undefined>>;

/** Firecracker, which accelerator sandboxes get and which VMM runs them, and why. */
export async function vmmFacts(dataDir: string, env: Environment): Promise<Fact[]> {
  return [await firecrackerFact(env), ...(await choiceFacts(dataDir, env))];
}

/** Firecracker and its jailer can be had beside QEMU; no host must have them. */
async function firecrackerFact(env: Environment): Promise<Fact> {
  const id = 'firecracker';
  const firecracker = env.TORPOR_FIRECRACKER ?? (await findProgram('firecracker'));
  if (firecracker === undefined) {
    const detail = 'none, and none is needed: QEMU serves';
    return { id, result: { state: 'absent', detail }, remedy: '' };
  }
  try {
    const found = await findFirecracker({ firecracker, jailer: env.TORPOR_JAILER });
    const jailer = found.jailerPath ?? 'no jailer: it runs without a chroot';
    const detail = `${found.path} ${found.version}, ${jailer}`;
    return { id, result: { state: 'found', detail }, remedy: '' };
  } catch (reason) {
    const { message, remedy } = TorporError.from(reason);
    return { id, result: { state: 'degraded', detail: message }, remedy };
  }
}

/** Boots a probe only where KVM may be had and none was made. */
async function choiceFacts(dataDir: string, env: Environment): Promise<Fact[]> {
  try {
    const forced = forcedAccelerator(env);
    const kernelPath = await findKernel(join(cacheDirectory(dataDir, env), 'kernels'));
    if (kernelPath === undefined && forced === undefined && (await isAccessible('/dev/kvm'))) {
      return [
        fact('accelerator', 'found', '/dev/kvm is tried at the first start'),
        fact('vmm', 'found', 'chosen at the first start, when /dev/kvm has been tried'),
      ];
    }
    const choice = await chooseVmm({
      setting: vmmSetting(env),
      kernelPath: kernelPath ?? '',
      stateDirectory: dataDir,
      forcedAccelerator: forced,
    });
    return factsOf(choice);
  } catch (reason) {
    const { message, remedy } = TorporError.from(reason);
    return [fact('vmm', 'missing', message, remedy)];
  }
}

function factsOf({ accelerator, platform, reason }: VmmChoice): Fact[] {
  const isFast = accelerator.accelerator === 'kvm' || accelerator.forced;
  return [
    fact(
      'accelerator',
      isFast ? 'found' : 'degraded',
      `${accelerator.accelerator}: ${accelerator.reason}`,
      'Sandboxes run in pure emulation, which is several times slower; give this machine KVM, if it can have it.',
    ),
    fact('vmm', 'found', `${platform.vmm} ${platform.vmmVersion}: ${reason}`),
  ];
}

function fact(id: string, state: Fact['result']['state'], detail: string, remedy = ''): Fact {
  return { id, result: { state, detail }, remedy };
}

/** A guest kernel of the cache, whichever. */
async function findKernel(directory: string): Promise<string | undefined> {
  for (const key of await readdir(directory).catch(() => [])) {
    const path = join(directory, key, 'vmlinuz');
    if (await isAccessible(path)) return path;
  }
  return undefined;
}
