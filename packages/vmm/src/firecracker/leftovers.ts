import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { identifyProcess, type ProcessIdentity, signalProcess } from '@torpor/linux';
import { machineLayout } from './machine-layout.ts';
import { removeRoot } from './machine-root.ts';

/**
 * Kills every Firecracker that was started for a run directory, and removes what it
 * needed; idempotent. Returns the processes that were sent SIGKILL.
 */
export async function killFirecrackerLeftovers(runDirectory: string): Promise<ProcessIdentity[]> {
  const found = await findFirecrackers(runDirectory);
  const killed = found.filter((identity) => signalProcess(identity, 'SIGKILL'));
  await removeRoot(machineLayout(runDirectory));
  return killed;
}

/**
 * The Firecrackers that were started for a run directory, or processes that will execute one.
 * The command line does not name the directory, but from the start, jailed or not, the
 * machine's root is the process's working directory.
 */
async function findFirecrackers(runDirectory: string): Promise<ProcessIdentity[]> {
  const roots = await rootsBelow(machineLayout(runDirectory).jail);
  const found: ProcessIdentity[] = [];
  for (const name of roots.size === 0 ? [] : await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    // The identity is read first: if the pid is recycled after that, no signal is sent.
    const identity = identifyProcess(Number(name));
    if (identity === undefined) continue;
    const directory = await inode(`/proc/${name}/cwd`);
    if (directory === undefined || !roots.has(directory)) continue;
    found.push(identity);
  }
  return found;
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

/** Identifies a directory, also through a bind mount and from within a chroot. */
async function inode(path: string): Promise<string | undefined> {
  try {
    const { dev, ino } = await stat(path, { bigint: true });
    return `${dev}:${ino}`;
  } catch {
    return undefined;
  }
}
