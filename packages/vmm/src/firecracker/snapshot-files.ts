import { constants } from 'node:fs';
import { open, readFile, rm, stat, statfs } from 'node:fs/promises';
import { dirname } from 'node:path';
import {
  copySparse,
  ignoreMissing,
  linkOpenFile,
  SystemError,
  writeFileAtomically,
} from '@torpor/linux';
import { TorporError } from '@torpor/protocol';
import type { MachineLayout } from './machine-layout.ts';

/*
 * The files of a snapshot on their way from Firecracker to the caller, and the count of
 * attempts; `dirty-base.ts` says what that is for.
 */

/**
 * How many snapshots of the machine were attempted since it was started or restored;
 * undefined if the file that should say so is lost or damaged.
 */
export async function attemptedSnapshots(layout: MachineLayout): Promise<number | undefined> {
  const text = (await readFile(layout.snapshotCount, 'utf8').catch(ignoreMissing)) ?? '';
  const count = /^\d+$/.test(text) ? Number(text) : undefined;
  return Number.isSafeInteger(count) ? count : undefined;
}

/** Throws a file system error; then the old count is kept. */
export function countSnapshots(layout: MachineLayout, count: number): Promise<void> {
  return writeFileAtomically(layout.snapshotCount, String(count));
}

/** Removes what a failed attempt left. */
export async function dropSnapshot(layout: MachineLayout): Promise<void> {
  for (const path of [layout.snapshotState, layout.snapshotMemory]) {
    await rm(path, { recursive: true, force: true });
  }
}

/**
 * Moves a written snapshot to its destination, readable and writable by us only. Throws
 * `already_exists` if something is there, or a file system error; then nothing of it is left
 * there.
 */
export async function takeSnapshot(
  layout: MachineLayout,
  wanted: { readonly statePath: string; readonly memoryPath: string },
): Promise<void> {
  await move(layout.snapshotState, wanted.statePath);
  try {
    await move(layout.snapshotMemory, wanted.memoryPath);
  } catch (error) {
    await rm(wanted.statePath, { force: true });
    throw error;
  }
}

/** Throws `already_exists`, before a snapshot is made that could not be stored. */
export async function checkFree(path: string): Promise<void> {
  const isThere = await stat(path).then(
    () => true,
    () => false,
  );
  if (isThere) throw new TorporError('already_exists', `${path} already exists.`);
}

const PAGE_BYTES = 4096;

/**
 * A diff marks unwritten pages by holes of its file, so its file system must have holes of one
 * page: with larger blocks a page that was not written would read as zeros beside one that was.
 * Throws `host_setup`.
 */
export async function checkHoles(layout: MachineLayout, memoryPath: string): Promise<void> {
  for (const directory of [layout.snapshotDirectory, dirname(memoryPath)]) {
    const { bsize } = await statfs(directory);
    if (bsize <= PAGE_BYTES) continue;
    const what = `The file system of ${directory} keeps files in blocks of ${bsize} bytes, too large for the changed pages of a machine.`;
    const remedy = 'Put the data directory on ext4, XFS or Btrfs with blocks of 4096 bytes.';
    throw new TorporError('host_setup', what, { remedy });
  }
}

/**
 * `from` was made by a Firecracker that its guest may control: it must be a regular file
 * without hard links.
 */
async function move(from: string, to: string): Promise<void> {
  const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
  await using file = await open(from, flags);
  const status = await file.stat();
  if (!status.isFile() || status.nlink !== 1) {
    throw new TorporError('vmm_failed', 'Firecracker wrote a snapshot that is not a regular file.');
  }
  await file.chown(process.getuid?.() ?? 0, process.getgid?.() ?? 0);
  await file.chmod(0o600);
  try {
    // Unlike rename(2), this does not replace what is there.
    linkOpenFile(file.fd, to);
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
    if (error.code === 'EEXIST') await checkFree(to);
    if (error.code !== 'EXDEV') throw error;
    await checkFree(to);
    await copySparse(`/proc/self/fd/${file.fd}`, to);
  }
  await rm(from);
}
