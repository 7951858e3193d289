import { randomBytes } from 'node:crypto';
import { open, rename, rm, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';

/** The suffix of temporary files that a crash of {@link replaceFile} can leave: remove them at start-up. */
export const REPLACEMENT_SUFFIX = '.new';

/** Makes a file's or directory's contents survive a power loss. */
export async function syncPath(path: string): Promise<void> {
  await using handle = await open(path);
  await handle.sync();
}

/**
 * Replaces a small file atomically: it has either the old text or the new; durable when it
 * resolves.
 */
export async function replaceFile(path: string, text: string): Promise<void> {
  const staging = `${path}.${randomBytes(8).toString('hex')}${REPLACEMENT_SUFFIX}`;
  try {
    await writeFile(staging, text, { mode: 0o600, flush: true });
    await rename(staging, path);
  } catch (error) {
    await rm(staging, { force: true });
    throw error;
  }
  await syncPath(dirname(path));
}
