import { readdir, readFile } from 'node:fs/promises';
import { manifestTexts } from '@torpor/builds';
import { recordFileIn, sandboxesIn } from './layout.ts';

/**
 * What the sandboxes and builds of a data directory, which an agent may be using, say of
 * themselves: their records and manifests as they are written, also those that are damaged
 * or of another version. Throws a file system error for one that cannot be read.
 */
export async function* recordTexts(dataDir: string): AsyncGenerator<string> {
  for (const id of (await readdir(sandboxesIn(dataDir)).catch(ignoreMissing)) ?? []) {
    const text = await readFile(recordFileIn(dataDir, id), 'utf8').catch(ignoreMissing);
    if (text !== undefined) yield text;
  }
  // A sandbox that is being paused has its build before it loses its machine: builds come last.
  yield* manifestTexts(dataDir);
}

/** Undefined for what is not there, or not any more. */
function ignoreMissing(error: NodeJS.ErrnoException): undefined {
  if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return undefined;
  throw error;
}
