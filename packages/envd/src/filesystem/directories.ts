import { chown, mkdir, rmdir, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { Code, ConnectError } from '@connectrpc/connect';
import type { User } from '../users.ts';
import { errnoName, isMissing } from './errors.ts';

/**
 * Creates a directory and its missing parents, mode 0755, each owned by the user; existing ones
 * keep their owner. Returns the directories that were created, outermost first. Throws
 * ConnectError `invalid_argument` if a part of the path is not a directory, else Node's errors;
 * what was created until then is removed again.
 */
export async function ensureDirectories(path: string, user: User): Promise<string[]> {
  const missing: string[] = [];
  for (let current = path; ; current = dirname(current)) {
    const found = await statOrUndefined(current);
    if (found?.isDirectory()) break;
    if (found !== undefined) {
      throw new ConnectError(`path is not a directory: ${current}`, Code.InvalidArgument);
    }
    missing.unshift(current);
  }
  const made: string[] = [];
  try {
    for (const directory of missing) {
      if (await makeOwned(directory, user)) made.push(directory);
    }
  } catch (error) {
    await removeDirectories(made);
    throw error;
  }
  return made;
}

/** Undoes {@link ensureDirectories} as far as the directories are still empty. */
export async function removeDirectories(made: readonly string[]): Promise<void> {
  for (const directory of made.toReversed()) {
    try {
      await rmdir(directory);
    } catch {
      // It is in use by now, so it is kept, with its parents.
      return;
    }
  }
}

/** Returns false if the directory was created by another process in the meantime. */
async function makeOwned(directory: string, user: User): Promise<boolean> {
  try {
    await mkdir(directory, 0o755);
  } catch (error) {
    if (errnoName(error) === 'EEXIST' && (await statOrUndefined(directory))?.isDirectory())
      return false;
    throw error;
  }
  await chown(directory, user.uid, user.gid);
  return true;
}

async function statOrUndefined(path: string) {
  try {
    return await stat(path);
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}
