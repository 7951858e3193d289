import { readlinkSync, realpathSync, type Stats, statSync } from 'node:fs';
import { posix } from 'node:path';
import { errnoOf, TreeError, treeError } from './errors.ts';
import { join } from './paths.ts';

/** Where a copy goes, links resolved, and what is there now. */
export interface Target {
  readonly path: Buffer;
  /** The directory that the path is in. */
  readonly parent: Buffer;
  readonly found: 'nothing' | 'directory' | 'file' | 'special';
}

/** As the kernel's own limit; path_resolution(7). */
const MAX_LINKS = 40;

/**
 * The target of a copy to `destination`, as with cp(1): in the directory of that name if it
 * exists, else under that very name, whose parent directory must exist. A symbolic link is
 * followed. `name` is `.` if only the contents of the source are meant. Throws TreeError.
 */
export function findTarget(destination: string, name: Buffer, isDirectory: boolean): Target {
  const asked = Buffer.from(destination === '' ? '.' : destination);
  const there = statusOf(asked);
  const isContents = name.toString('latin1') === '.';
  if (there?.isDirectory()) {
    return existing(isContents ? asked : normalized(join(asked, name)), isDirectory);
  }
  if (destination.endsWith('/') && (there !== undefined || !isDirectory)) {
    throw new TreeError('not_found', `The directory ${destination} does not exist.`);
  }
  return existing(Buffer.from(destination.replace(/(?<=.)\/+$/, '')), isDirectory);
}

function existing(path: Buffer, isDirectory: boolean): Target {
  const found = statusOf(path);
  if (found === undefined) return missing(path, MAX_LINKS);
  if (found.isDirectory() && !isDirectory) {
    throw new TreeError('conflict', `${path} is a directory, but the source is not.`);
  }
  if (!found.isDirectory() && isDirectory) {
    throw new TreeError('conflict', `${path} exists and is not a directory.`);
  }
  // What a link of /proc points to, a pipe for example, need not have a path.
  if (!found.isDirectory() && !found.isFile()) return { path, parent: path, found: 'special' };
  const real = realpathSync.native(path, { encoding: 'buffer' });
  return {
    path: real,
    parent: directoryOf(real),
    found: found.isDirectory() ? 'directory' : 'file',
  };
}

/** A path that does not exist, or a link to one: what the link names is made. */
function missing(path: Buffer, linksLeft: number): Target {
  const parent = directoryOf(path);
  let target: Buffer;
  try {
    target = readlinkSync(path, { encoding: 'buffer' });
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT' && errnoOf(error) !== 'ENOTDIR') {
      throw treeError(error, path.toString());
    }
    if (statusOf(parent)?.isDirectory()) return { path, parent, found: 'nothing' };
    throw new TreeError('not_found', `The directory ${parent} does not exist.`);
  }
  if (linksLeft === 0) throw new TreeError('not_found', `${path}: too many symbolic links`);
  return missing(target[0] === SLASH ? target : join(parent, target), linksLeft - 1);
}

const SLASH = 0x2f;

function normalized(path: Buffer): Buffer {
  return Buffer.from(posix.normalize(path.toString('latin1')), 'latin1');
}

function directoryOf(path: Buffer): Buffer {
  return Buffer.from(posix.dirname(path.toString('latin1')), 'latin1');
}

/** Undefined for a path that does not exist. */
function statusOf(path: Buffer): Stats | undefined {
  try {
    return statSync(path);
  } catch (error) {
    const errno = errnoOf(error);
    if (errno === 'ENOENT' || errno === 'ENOTDIR') return undefined;
    throw treeError(error, path.toString());
  }
}
