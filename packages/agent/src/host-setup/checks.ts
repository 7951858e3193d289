import { access } from 'node:fs/promises';
import { isStaticProgram } from '@torpor/images';
import { findProgram, SYSTEM_DIRECTORIES } from '@torpor/linux';
import { findQemu } from '@torpor/vmm';
import type { CheckResult } from './requirement.ts';

/** The path of a program that setup and the commands of root use, or undefined. */
export function findSystemProgram(name: string): Promise<string | undefined> {
  return findProgram(name, { after: SYSTEM_DIRECTORIES });
}

export async function isAccessible(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

/** A check that all these programs exist. */
export function programs(...names: readonly string[]): () => Promise<CheckResult> {
  return async () => {
    const found = await Promise.all(names.map(findSystemProgram));
    const missing = names.filter((_, index) => found[index] === undefined);
    return missing.length === 0
      ? { state: 'found', detail: found.join(', ') }
      : { state: 'missing', detail: `no program ${missing.join(', ')}` };
  };
}

/** A check that these files exist. */
export function files(...paths: readonly string[]): () => Promise<CheckResult> {
  return async () => {
    const present = await Promise.all(paths.map((path) => isAccessible(path)));
    const missing = paths.filter((_, index) => !present[index]);
    return missing.length === 0
      ? { state: 'found', detail: paths.join(', ') }
      : { state: 'missing', detail: `no ${missing.join(', ')}` };
  };
}

/** A check that all of these checks pass. */
export function every(
  ...checks: readonly (() => Promise<CheckResult>)[]
): () => Promise<CheckResult> {
  return async () => {
    const results = await Promise.all(checks.map((check) => check()));
    const bad = results.find(({ state }) => state !== 'found');
    return bad ?? { state: 'found', detail: results.map(({ detail }) => detail).join(', ') };
  };
}

/** The initramfs contains only busybox, so it must need no libraries. */
export async function staticBusybox(): Promise<CheckResult> {
  const path = await findSystemProgram('busybox');
  if (path === undefined) return { state: 'missing', detail: 'no program busybox' };
  return (await isStaticProgram(path))
    ? { state: 'found', detail: path }
    : { state: 'missing', detail: `${path} needs shared libraries` };
}

/** The QEMU at the path, else on the PATH. One below 10 works, but with the slower machine type q35. */
export async function qemu(program?: string): Promise<CheckResult> {
  try {
    const { path, version, machineType } = await findQemu(program);
    const text = `${path} ${version}`;
    return machineType === 'microvm'
      ? { state: 'found', detail: text }
      : { state: 'degraded', detail: `${text}; 10 or newer starts faster` };
  } catch (error) {
    return { state: 'missing', detail: error instanceof Error ? error.message : String(error) };
  }
}

/** Namespaces, taps and nftables need root. */
export async function superUser(): Promise<CheckResult> {
  return process.getuid?.() === 0
    ? { state: 'found', detail: 'uid 0' }
    : { state: 'missing', detail: `running as uid ${process.getuid?.()}` };
}
