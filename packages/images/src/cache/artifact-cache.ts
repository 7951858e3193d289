import { createHash, randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { access, lstat, mkdir, open, readdir, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { ignoreMissing } from '@torpor/linux';
import { toImageError } from './image-error.ts';
import { waitForLock } from './wait-for-lock.ts';

/**
 * Every artefact of this package is a directory named after a key: the hash of all its inputs.
 * It is built in a staging directory beside its final path, synced, and renamed. So a directory
 * that exists is complete, a crash leaves only a staging directory (which the next builder
 * removes), and a published one is never written to again.
 */
export interface ArtifactRequest {
  /** The directory of the artefacts of one kind; created if it does not exist. */
  readonly directory: string;
  readonly key: string;
  /** Fills the staging directory. The directory is removed if this throws. */
  readonly build: (staging: string) => Promise<void>;
  readonly signal?: AbortSignal | undefined;
  /** Called if this waits for another builder. */
  readonly onWait?: (() => void) | undefined;
}

const STAGING_PREFIX = '.staging-';
const LOCK_NAME = '.lock';
const KEY_LENGTH = 24;

/** A key: 24 hexadecimal digits that depend on every given value, and not on the order of the names. */
export function computeKey(inputs: Record<string, unknown>): string {
  return createHash('sha256').update(canonicalJson(inputs)).digest('hex').slice(0, KEY_LENGTH);
}

export function isKey(name: string): boolean {
  return /^[0-9a-f]{24}$/.test(name);
}

/**
 * The directory of an artefact, built first if it is missing. Of several
 * builders, also in different processes, one builds and the others wait. Throws
 * `disk_full`, or what the build threw; nothing half-made is left then.
 */
export async function ensureArtifact(request: ArtifactRequest): Promise<string> {
  const target = join(request.directory, request.key);
  if (await exists(target)) return target;
  try {
    await mkdir(request.directory, { recursive: true });
    await using _lock = await waitForLock(join(request.directory, LOCK_NAME), request);
    if (await exists(target)) return target;
    await removeStaging(request.directory);
    await buildAndPublish(request, target);
    return target;
  } catch (error) {
    // The error of a program that was killed because of the signal only says that it was killed.
    throw request.signal?.aborted === true ? request.signal.reason : toImageError(error);
  }
}

async function buildAndPublish(request: ArtifactRequest, target: string): Promise<void> {
  const staging = join(request.directory, `${STAGING_PREFIX}${randomBytes(8).toString('hex')}`);
  try {
    await mkdir(staging);
    await request.build(staging);
    request.signal?.throwIfAborted();
    await syncTree(staging);
    await rename(staging, target);
  } catch (error) {
    // The programs of a builder that was killed may take a moment to stop writing.
    await rm(staging, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
    throw error;
  }
  await syncFile(request.directory);
}

/** Keys of the artefacts of one kind, in no order. Empty if the directory does not exist. */
export async function listArtifacts(directory: string): Promise<string[]> {
  const names = await readdir(directory).catch(ignoreMissing);
  return (names ?? []).filter(isKey);
}

/** Bytes that a published artefact occupies; 0 if there is none. */
export async function artifactSize(directory: string, key: string): Promise<number> {
  const root = join(directory, key);
  const names = (await readdir(root, { recursive: true }).catch(ignoreMissing)) ?? [];
  let blocks = 0;
  for (const name of names) {
    blocks += (await lstat(join(root, name)).catch(ignoreMissing))?.blocks ?? 0;
  }
  return blocks * 512;
}

/**
 * Removes a published artefact, under the lock of its kind. It is renamed first, so that it is
 * removed atomically.
 */
export async function removeArtifact(directory: string, key: string): Promise<void> {
  await using _lock = await waitForLock(join(directory, LOCK_NAME));
  const doomed = join(directory, `${STAGING_PREFIX}${randomBytes(8).toString('hex')}`);
  await rename(join(directory, key), doomed).catch(ignoreMissing);
  await rm(doomed, { recursive: true, force: true });
}

/** SHA-256 of a file's contents, in hexadecimal. For files that fit into memory. */
export async function hashFile(path: string): Promise<string> {
  return createHash('sha256')
    .update(await readFile(path))
    .digest('hex');
}

export async function exists(path: string): Promise<boolean> {
  return access(path, constants.F_OK).then(
    () => true,
    () => false,
  );
}

/** Only ever called under the lock: the process that made a staging directory has exited. */
async function removeStaging(directory: string): Promise<void> {
  for (const name of await readdir(directory)) {
    if (!name.startsWith(STAGING_PREFIX)) continue;
    await rm(join(directory, name), { recursive: true, force: true });
  }
}

/** fsync(2) of every file and directory below a directory, and of itself. */
async function syncTree(directory: string): Promise<void> {
  for (const entry of await readdir(directory, { withFileTypes: true })) {
    const path = join(directory, entry.name);
    if (entry.isDirectory()) await syncTree(path);
    if (entry.isFile()) await syncFile(path);
  }
  await syncFile(directory);
}

async function syncFile(path: string): Promise<void> {
  await using file = await open(path, 'r');
  await file.sync();
}

function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_key, entry: unknown) =>
    isRecord(entry)
      ? Object.fromEntries(Object.entries(entry).sort(([a], [b]) => (a < b ? -1 : 1)))
      : entry,
  );
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
