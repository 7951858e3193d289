import { chmod, chown, link, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { copySparse } from '@torpor/linux';
import { TorporError } from '@torpor/protocol';
import { INSIDE, type MachineLayout } from './machine-layout.ts';

/*
 * A diff holds what the guest wrote since the snapshot before, and Firecracker
 * forgets what that was as soon as it has written it down. Were a snapshot lost
 * between there and the place where its builder keeps it, by a crash of either or
 * a full disk, the next diff would silently lack what the lost one had. So the
 * attempts are counted on disk before each one, and a diff is made only for a
 * caller who says with which number the last one came to it.
 */

/** How many snapshots of the machine were attempted since it was started or restored. */
export async function attemptedSnapshots(layout: MachineLayout): Promise<number> {
  return Number(await readFile(layout.snapshotCount, 'utf8'));
}

export async function countSnapshot(layout: MachineLayout, count: number): Promise<void> {
  await writeFile(layout.snapshotCount, String(count), { mode: 0o600 });
}

/** Removes what an attempt left that did not succeed. */
export async function dropSnapshot(layout: MachineLayout): Promise<void> {
  await rm(join(layout.root, INSIDE.snapshotState), { force: true });
  await rm(join(layout.root, INSIDE.snapshotMemory), { force: true });
}

/**
 * Moves a written snapshot to where it is wanted, readable and writable by us
 * only. Throws `already_exists` if something is there, or a file system error.
 */
export async function takeSnapshot(
  layout: MachineLayout,
  wanted: { readonly statePath: string; readonly memoryPath: string },
): Promise<void> {
  await move(join(layout.root, INSIDE.snapshotState), wanted.statePath);
  try {
    await move(join(layout.root, INSIDE.snapshotMemory), wanted.memoryPath);
  } catch (error) {
    await rm(wanted.statePath, { force: true });
    throw error;
  }
}

/** Throws `already_exists`: before a snapshot is made that would have nowhere to go. */
export async function checkFree(path: string): Promise<void> {
  const isThere = await stat(path).then(
    () => true,
    () => false,
  );
  if (isThere) throw new TorporError('already_exists', `${path} exists already.`);
}

async function move(from: string, to: string): Promise<void> {
  await chown(from, process.getuid?.() ?? 0, process.getgid?.() ?? 0);
  await chmod(from, 0o600);
  try {
    // Unlike rename(2), link(2) does not replace what is there.
    await link(from, to);
  } catch (error) {
    if (!isOtherFileSystem(error)) throw error;
    await checkFree(to);
    await copySparse(from, to);
  }
  await rm(from);
}

function isOtherFileSystem(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'EXDEV';
}
