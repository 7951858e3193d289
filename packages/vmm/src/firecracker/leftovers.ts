import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { identifyProcess, type ProcessIdentity, signalProcess } from '@torpor/linux';
import { machineLayout } from './machine-layout.ts';
import { removeRoot } from './machine-root.ts';

/**
 * Ends every Firecracker that was started for a run directory, and removes what it
 * needed; idempotent. Its command line does not name the directory, but from its
 * first moment on, jailed or not, it works in the machine's root. Returns the
 * processes that were sent SIGKILL.
 */
export async function killFirecrackerLeftovers(runDirectory: string): Promise<ProcessIdentity[]> {
  const layout = machineLayout(runDirectory);
  const roots = await rootsBelow(layout.jail);
  const killed: ProcessIdentity[] = [];
  for (const name of roots.size === 0 ? [] : await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    // The identity comes first: were the pid recycled now, the signal would go nowhere.
    const identity = identifyProcess(Number(name));
    if (identity === undefined) continue;
    const directory = await inode(`/proc/${name}/cwd`);
    if (directory === undefined || !roots.has(directory)) continue;
    if (signalProcess(identity, 'SIGKILL')) killed.push(identity);
  }
  await removeRoot(layout);
  return killed;
}

/** The machines' root directories: `JAIL/PROGRAM/ID/root`. */
async function rootsBelow(jail: string): Promise<Set<string>> {
  const roots = new Set<string>();
  for (const program of await entries(jail)) {
    for (const id of await entries(join(jail, program))) {
      const root = await inode(join(jail, program, id, 'root'));
      if (root !== undefined) roots.add(root);
    }
  }
  return roots;
}

async function entries(directory: string): Promise<string[]> {
  return await readdir(directory).catch(() => []);
}

/** What tells a directory from every other one, also through a bind mount and from within a chroot. */
async function inode(path: string): Promise<string | undefined> {
  try {
    const { dev, ino } = await stat(path, { bigint: true });
    return `${dev}:${ino}`;
  } catch {
    return undefined;
  }
}
