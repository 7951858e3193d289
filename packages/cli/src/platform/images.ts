import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Image, ImageStore } from '@torpor/images';

/** The images of a cache, guarded against removal while a sandbox uses them. */
export function openImageStore(cacheDir: string, dataDir: string): ImageStore {
  return new ImageStore({ cacheDir, isInUse: (image) => isInUse(image, dataDir) });
}

/**
 * Whether a sandbox of this data directory names the image in its record, or a
 * running program (a VMM of another data directory that shares the cache) in its
 * arguments.
 */
async function isInUse({ path }: Image, dataDir: string): Promise<boolean> {
  const sandboxes = join(dataDir, 'sandboxes');
  const records = (await readdir(sandboxes).catch(() => [])).map((id) =>
    join(sandboxes, id, 'sandbox.json'),
  );
  const commands = (await readdir('/proc'))
    .filter((name) => /^\d+$/.test(name))
    .map((pid) => `/proc/${pid}/cmdline`);
  for (const file of [...records, ...commands]) {
    const text = await readFile(file, 'utf8').catch(() => '');
    if (text.includes(path)) return true;
  }
  return false;
}
