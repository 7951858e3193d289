import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { BaseImages } from '@torpor/agent';
import { type Image, ImageStore } from '@torpor/images';
import { TorporError } from '@torpor/protocol';

/** The images of a cache, guarded against removal while a sandbox uses them. */
export function openImageStore(cacheDir: string, dataDir: string): ImageStore {
  return new ImageStore({ cacheDir, isInUse: (image) => isInUse(image, dataDir) });
}

/** The images as the host agent wants them. */
export function baseImages(store: ImageStore): BaseImages {
  return {
    async resolve(name) {
      const image = await store.resolve(name);
      if (image === undefined) {
        throw new TorporError('not_found', `There is no template ${JSON.stringify(name)}.`, {
          remedy: '`torpor image ls` shows those that there are.',
        });
      }
      const { path, defaultUser } = image;
      return { name, path, ...(defaultUser === undefined ? {} : { defaultUser }) };
    },
    async list() {
      return (await store.list()).map(({ name, sizeBytes, createdAt }) => ({
        name,
        sizeBytes,
        createdAt: Date.parse(createdAt),
      }));
    },
  };
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
