import { constants } from 'node:fs';
import { access, stat } from 'node:fs/promises';
import { delimiter, isAbsolute, join } from 'node:path';

/** Debian's directories of programs, some of which an ordinary user's `PATH` lacks. */
export const SYSTEM_DIRECTORIES: readonly string[] = [
  '/usr/local/sbin',
  '/usr/local/bin',
  '/usr/sbin',
  '/usr/bin',
  '/sbin',
  '/bin',
];

export interface ProgramSearch {
  /** Directories that take precedence over those of the `PATH`. */
  readonly before?: readonly string[];
  /** Directories to search after those of the `PATH`. */
  readonly after?: readonly string[];
}

/**
 * The path of the first regular file with this name that this process may execute, or undefined.
 * Relative entries of the `PATH`, and empty ones, are ignored: what they find depends on the
 * working directory.
 */
export async function findProgram(
  name: string,
  { before = [], after = [] }: ProgramSearch = {},
): Promise<string | undefined> {
  const ofPath = (process.env.PATH ?? '').split(delimiter).filter(isAbsolute);
  for (const directory of new Set([...before, ...ofPath, ...after])) {
    const path = join(directory, name);
    if (await isExecutable(path)) return path;
  }
  return undefined;
}

async function isExecutable(path: string): Promise<boolean> {
  try {
    await access(path, constants.X_OK);
    // A directory that may be entered is executable, too.
    return (await stat(path)).isFile();
  } catch {
    return false;
  }
}
