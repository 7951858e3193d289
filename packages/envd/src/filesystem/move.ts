import { randomBytes } from 'node:crypto';
import type { Stats } from 'node:fs';
import {
  chmod,
  copyFile,
  lchown,
  lstat,
  mkdir,
  readdir,
  readlink,
  rename,
  rm,
  symlink,
  utimes,
} from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { Code, ConnectError } from '@connectrpc/connect';
import type { User } from '../users.ts';
import { ensureDirectories, removeDirectories } from './directories.ts';
import { errnoName, filesystemError, isMissing } from './errors.ts';
import { readMetadata, replaceMetadata } from './metadata.ts';

/**
 * Renames a file or directory, as rename(2): an existing file is replaced, the destination's
 * missing parents are created for the user. Where the kernel refuses to rename (`EXDEV`:
 * another file system, or a directory of an overlay's lower layer) the tree is copied beside
 * the destination, put in place, and then removed at its source. Throws ConnectError
 * `not_found`, `invalid_argument` (into itself), `failed_precondition` (destination is a
 * directory that is not empty, …).
 */
export async function moveEntry(source: string, destination: string, user: User): Promise<void> {
  try {
    await lstat(source);
  } catch (error) {
    throw filesystemError(isMissing(error) ? 'source file not found' : 'cannot move', error);
  }
  const made = await ensureDirectories(dirname(destination), user);
  try {
    await rename(source, destination);
  } catch (error) {
    try {
      if (errnoName(error) !== 'EXDEV') throw error;
      await moveByCopy(source, destination);
    } catch (failure) {
      await removeDirectories(made);
      throw filesystemError(`cannot move ${source} to ${destination}`, failure);
    }
  }
}

async function moveByCopy(source: string, destination: string): Promise<void> {
  const suffix = randomBytes(6).toString('hex');
  const staging = join(dirname(destination), `.${basename(destination).slice(0, 200)}.${suffix}`);
  try {
    await copyTree(source, staging);
    await rename(staging, destination);
  } catch (error) {
    await rm(staging, { recursive: true, force: true });
    throw error;
  }
  await rm(source, { recursive: true, force: true });
}

/** Copies with owner, mode, times and metadata; links are copied as links. */
async function copyTree(source: string, destination: string): Promise<void> {
  const stats = await lstat(source);
  if (stats.isDirectory()) {
    await mkdir(destination, 0o700);
    for (const name of await readdir(source)) {
      await copyTree(join(source, name), join(destination, name));
    }
  } else if (stats.isSymbolicLink()) {
    await symlink(await readlink(source), destination);
  } else if (stats.isFile()) {
    await copyFile(source, destination);
  } else {
    throw new ConnectError(
      `${source} is neither a file, a directory nor a link: it cannot be moved to another file system`,
      Code.FailedPrecondition,
    );
  }
  await copyAttributes(source, stats, destination);
}

async function copyAttributes(source: string, stats: Stats, destination: string): Promise<void> {
  await lchown(destination, stats.uid, stats.gid);
  if (stats.isSymbolicLink()) return;
  replaceMetadata(destination, readMetadata(source));
  // After chown, which clears the setuid bit.
  await chmod(destination, stats.mode & 0o7777);
  await utimes(destination, stats.atime, stats.mtime);
}
