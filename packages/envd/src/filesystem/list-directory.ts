import { readdir, realpath, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { Code, ConnectError } from '@connectrpc/connect';
import { TorporError } from '@torpor/protocol';
import type { UserDatabase } from '../users.ts';
import { type EntryInfoInit, entryInfo } from './entry-info.ts';
import { errnoName, filesystemError, isMissing } from './errors.ts';

/** All entries of a response are in memory, about 1 KiB each. */
const MAX_ENTRIES = 200_000;

/** Entries that are read together; the thread pool works on four at a time. */
const AT_ONCE = 64;

/**
 * Describes the contents of a directory, down to `depth` levels (1: its own entries), each
 * directory followed by its contents, names in lexical order. A symbolic link at the path
 * itself is followed, others are not; entries that are removed meanwhile are left out. Throws
 * ConnectError `not_found`, `invalid_argument` (not a directory), `failed_precondition` (links
 * in a circle), `resource_exhausted` (over 200,000 entries).
 */
export async function listDirectory(
  path: string,
  depth: number,
  users: UserDatabase,
): Promise<EntryInfoInit[]> {
  await assertDirectory(path);
  const entries: EntryInfoInit[] = [];
  const visit = async (directory: string, level: number): Promise<void> => {
    const children = await childrenOf(directory, directory === path);
    for (let start = 0; start < children.length; start += AT_ONCE) {
      const batch = children.slice(start, start + AT_ONCE);
      const described = await Promise.all(
        batch.map(({ name }) => entryInfo(join(directory, name), users).catch(undefinedIfMissing)),
      );
      for (const [at, child] of batch.entries()) {
        const entry = described[at];
        if (entry === undefined) continue;
        if (entries.length === MAX_ENTRIES) throw tooMany(path);
        entries.push(entry);
        if (child.isDirectory && level < depth) await visit(join(directory, child.name), level + 1);
      }
    }
  };
  await visit(path, 1);
  return entries;
}

function tooMany(path: string): ConnectError {
  return new TorporError(
    'too_large',
    `${path} holds more than ${MAX_ENTRIES} entries: list it with a smaller depth`,
  ).toConnectError();
}

/** Throws a ConnectError unless the path is a directory or a link to one. */
export async function assertDirectory(path: string): Promise<void> {
  try {
    const found = await stat(await realpath(path));
    if (found.isDirectory()) return;
  } catch (error) {
    if (errnoName(error) === 'ELOOP') {
      throw new ConnectError(
        `cyclic symlink or too many links at ${path}`,
        Code.FailedPrecondition,
      );
    }
    throw filesystemError(isMissing(error) ? 'path not found' : `cannot read ${path}`, error);
  }
  throw new ConnectError(`path is not a directory: ${path}`, Code.InvalidArgument);
}

interface Child {
  readonly name: string;
  readonly isDirectory: boolean;
}

async function childrenOf(directory: string, isRoot: boolean): Promise<Child[]> {
  try {
    const children = await readdir(directory, { withFileTypes: true });
    return children
      .map((child) => ({ name: child.name, isDirectory: child.isDirectory() }))
      .toSorted((left, right) => (left.name < right.name ? -1 : 1));
  } catch (error) {
    if (!isRoot && isMissing(error)) return [];
    throw filesystemError(`cannot read ${directory}`, error);
  }
}

function undefinedIfMissing(error: unknown): undefined {
  if (!isMissing(error)) throw filesystemError('cannot read an entry', error);
  return undefined;
}
