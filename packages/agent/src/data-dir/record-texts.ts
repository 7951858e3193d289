import { readdir, readFile } from 'node:fs/promises';
import { manifestTexts } from '@torpor/builds';
import { recordFileIn, sandboxesIn } from './layout.ts';

/**
 * The unparsed records and manifests of the sandboxes and builds of a data directory, which an
 * agent may be using, including damaged ones and those of another version. Throws a file system
 * error for one that cannot be read.
 */
export async function* recordTexts(dataDir: string): AsyncGenerator<string> {
  for (const id of (await readdir(sandboxesIn(dataDir)).catch(ignoreMissing)) ?? []) {
    const text = await readFile(recordFileIn(dataDir, id), 'utf8').catch(ignoreMissing);
    if (text !== undefined) yield text;
  }
  // A sandbox that is being paused has its build before its machine is released, so builds are
  // read last.
  yield* manifestTexts(dataDir);
}

/** Undefined for a file that does not exist, or no longer. */
function ignoreMissing(error: NodeJS.ErrnoException): undefined {
  if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return undefined;
  throw error;
}
