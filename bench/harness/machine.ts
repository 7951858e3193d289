import { cpus, loadavg, release, totalmem } from 'node:os';
import { runCommand } from '@torpor/linux';
import { findQemu } from '@torpor/vmm';
import type { MachineFacts } from './result-file.ts';

/** The facts about the machine that are needed to compare figures with another's. */
export async function machineFacts(): Promise<MachineFacts> {
  const [first] = cpus();
  return {
    processor: first?.model.trim() ?? 'unknown',
    processors: cpus().length,
    memoryMiB: Math.round(totalmem() / 2 ** 20),
    kernel: release(),
    node: process.version,
    qemu: await findQemu(process.env.TORPOR_QEMU).then(
      ({ version }) => version,
      () => 'none',
    ),
    // The command prints "none" with status 1 on a machine that is not a guest.
    virtualised: await runCommand('systemd-detect-virt', []).then(
      (text) => text.trim(),
      () => 'unknown',
    ),
  };
}

/** The commit of the checkout, with `+` if files differ from it. */
export async function revision(repository: string): Promise<string> {
  const git = (...args: string[]) => runCommand('git', ['-C', repository, ...args]);
  try {
    const commit = (await git('rev-parse', '--short=12', 'HEAD')).trim();
    const changed = (await git('status', '--porcelain', '--untracked-files=no', 'packages')).trim();
    return changed === '' ? commit : `${commit}+`;
  } catch {
    return 'unknown';
  }
}

/** Load averages over one, five and fifteen minutes. */
export function load(): number[] {
  return loadavg().map((value) => Math.round(value * 100) / 100);
}
