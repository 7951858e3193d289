import { mkdir, readFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { CommandError, type KernelModules, writeFileAtomically } from '@torpor/linux';
import type { Requirement } from './requirement.ts';

/** Read at every boot: modules-load.d(5). */
export const MODULES_FILE = '/etc/modules-load.d/torpor.conf';

export interface ModuleLoading {
  readonly requirements: readonly Requirement[];
  readonly modules: KernelModules;
  /** {@link MODULES_FILE}, except in tests. */
  readonly file: string;
  /** Called with a line about each step. */
  readonly step: (line: string) => void;
}

/**
 * Loads the missing kernel modules of the requirements, now and at every boot: most kernels load
 * modules on demand, but some disable that later in the boot. A module that cannot be loaded is
 * reported; the check of its requirement decides whether that matters.
 */
export async function loadModules(loading: ModuleLoading): Promise<void> {
  const wanted = await Promise.all(
    loading.requirements.map((requirement) => requirement.unloadedModules?.() ?? []),
  );
  const names = [...new Set(wanted.flat())];
  if (names.length === 0) return;
  loading.step(`modprobe ${names.join(' ')}`);
  const loaded: string[] = [];
  for (const name of names) {
    try {
      await loading.modules.load(name);
      loaded.push(name);
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
      loading.step(`the kernel module ${name} could not be loaded: ${error.message}`);
    }
  }
  if (loaded.length > 0) await loadAtBoot(loaded, loading);
}

/** Keeps the file's other lines: an earlier set-up may have needed modules that are loaded now. */
async function loadAtBoot(names: readonly string[], { file, step }: ModuleLoading): Promise<void> {
  const text = await readFile(file, 'utf8').catch(() => '# Written by Torpor: `torpor setup`.\n');
  const lines = text.split('\n').filter((line) => line.trim() !== '');
  const missing = names.filter((name) => !lines.includes(name));
  if (missing.length === 0) return;
  step(`${missing.join(', ')}: loaded at every boot from now on, by ${file}`);
  await mkdir(dirname(file), { recursive: true });
  await writeFileAtomically(file, [...lines, ...missing, ''].join('\n'), 0o644);
}
