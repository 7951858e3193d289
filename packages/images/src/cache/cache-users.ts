import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { ignoreMissing, writeFileAtomically } from '@torpor/linux';
import { TorporError } from '@torpor/protocol';
import { z } from 'zod';
import { exists, isKey } from './artifact-cache.ts';

// Several data directories can share a cache, each with a server of another version. So each
// server records in the cache which artefacts it started with, and where its builds are:
// <cache>/users/<hash of the data directory>.json.

const FORMAT = 1;

const userSchema = z.strictObject({
  format: z.literal(FORMAT),
  dataDir: z.string().startsWith('/'),
  keys: z.array(z.string().refine(isKey)),
});

export interface CacheUser {
  /** An absolute path. */
  readonly dataDir: string;
  /** Keys of the artefacts that the server of this data directory started with last. */
  readonly keys: readonly string[];
}

/** Replaces the entry of this data directory, and drops those of directories that no longer exist. */
export async function registerCacheUser(cacheDir: string, user: CacheUser): Promise<void> {
  const directory = join(cacheDir, 'users');
  await mkdir(directory, { recursive: true });
  for (const path of await files(directory)) {
    // An entry that cannot be read is kept for the operator, and does not prevent the start.
    const other = await read(path).catch(() => undefined);
    if (other !== undefined && !(await exists(other.dataDir))) await rm(path, { force: true });
  }
  const name = createHash('sha256').update(user.dataDir).digest('hex').slice(0, 24);
  const text = JSON.stringify({ format: FORMAT, ...user });
  await writeFileAtomically(join(directory, `${name}.json`), text, 0o644);
}

/** In no order. Throws `internal_error` for a damaged file: the artefacts that it needs are unknown then. */
export async function listCacheUsers(cacheDir: string): Promise<CacheUser[]> {
  const users: CacheUser[] = [];
  for (const path of await files(join(cacheDir, 'users'))) {
    const user = await read(path);
    if (user !== undefined) users.push(user);
  }
  return users;
}

async function files(directory: string): Promise<string[]> {
  const names = (await readdir(directory).catch(ignoreMissing)) ?? [];
  return names.filter((name) => name.endsWith('.json')).map((name) => join(directory, name));
}

/** Undefined for one that has just been removed. */
async function read(path: string): Promise<CacheUser | undefined> {
  const text = await readFile(path, 'utf8').catch(ignoreMissing);
  if (text === undefined) return undefined;
  try {
    const { dataDir, keys } = userSchema.parse(JSON.parse(text));
    return { dataDir, keys };
  } catch (cause) {
    throw new TorporError('internal_error', `The file ${path} is damaged.`, {
      cause,
      remedy: 'Remove it and start the servers that use this cache again.',
    });
  }
}
