import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { ignoreMissing, writeFileAtomically } from '@torpor/linux';
import { TorporError } from '@torpor/protocol';

const KEY_BYTES = 32;

/**
 * The 32 random bytes in the file at `path` (mode 0600), created at first use. Throws
 * `host_setup` for a file of another size: a new key would lock the agent out of the running
 * guests.
 */
export async function loadOrCreateKey(path: string): Promise<Buffer> {
  const existing = await readFile(path).catch(ignoreMissing);
  if (existing === undefined) {
    const key = randomBytes(KEY_BYTES);
    await writeFileAtomically(path, key);
    return key;
  }
  if (existing.length !== KEY_BYTES) {
    throw new TorporError(
      'host_setup',
      `The key file ${path} is damaged: it has ${existing.length} bytes instead of ${KEY_BYTES}.`,
      { remedy: 'Restore it from a backup, or remove it after destroying all sandboxes.' },
    );
  }
  return existing;
}
