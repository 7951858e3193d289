import { chown, mkdir, rmdir, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { Code, ConnectError } from '@connectrpc/connect';
import type { User } from '../users.ts';
import { errnoName, isMissing } from './errors.ts';

/**
 * Makes a directory and the parents that it lacks, mode 0755, each owned by the
 * user; what exists already keeps its owner. Returns the directories that were made,
 * outermost first. Throws ConnectError `invalid_argument` if something on the way is
 * not a directory, else Node's errors; what was made until then is removed again.
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
      // Somebody uses it by now: it stays, and so do its parents.
      return;
    }
  }
}

/** Returns false if somebody else made the directory in the meantime. */
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
