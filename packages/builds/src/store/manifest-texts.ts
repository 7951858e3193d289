import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { BUILD_FILES } from '../manifest/manifest.ts';
import { BUILDS_DIRECTORY, StoreLayout } from './layout.ts';

/**
 * The manifests of all builds in a directory of a `LocalBuildStore`, which another process may
 * own, as they are written: also those that are damaged or of another version, or half-made.
 * Throws a file system error for one that cannot be read; what is removed meanwhile is skipped.
 */
export async function* manifestTexts(directory: string): AsyncGenerator<string> {
  const layout = new StoreLayout(join(directory, BUILDS_DIRECTORY));
  for (const name of (await readdir(layout.root).catch(ignoreMissing)) ?? []) {
    const text = await readFile(layout.file(name, BUILD_FILES.manifest), 'utf8').catch(
      ignoreMissing,
    );
    if (text !== undefined) yield text;
  }
}

function ignoreMissing(error: NodeJS.ErrnoException): undefined {
  if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return undefined;
  throw error;
}
