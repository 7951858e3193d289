import { currentKeys, ImageStore, type PrunedArtifact, pruneGuestArtifacts } from '@torpor/images';
import { keysInUse } from './keys-in-use.ts';

/** The images of a cache, guarded against removal while a sandbox or a build uses them. */
export function openImageStore(cacheDir: string, dataDir: string): ImageStore {
  return new ImageStore({
    cacheDir,
    isInUse: async ({ key }) => (await keysInUse(cacheDir, dataDir)).has(key),
  });
}

/** What this version of Torpor uses a cache for. */
export interface CacheUse {
  readonly cacheDir: string;
  readonly dataDir: string;
  /** See {@link GuestArtifactOptions}. */
  readonly envdEntry: string;
}

/**
 * Removes kernels, initramfs, agent drives and old versions of images that neither the
 * next sandbox of this version of Torpor needs nor anything that {@link keysInUse}
 * finds, and returns those that went; with `dryRun`, those that would go.
 */
export async function pruneCache(
  { cacheDir, dataDir, envdEntry }: CacheUse,
  options: { readonly dryRun: boolean },
): Promise<PrunedArtifact[]> {
  const needed = await keysInUse(cacheDir, dataDir);
  for (const key of await currentKeys({ cacheDir, envdEntry })) needed.add(key);
  const isNeeded = (key: string) => needed.has(key);
  return [
    ...(await pruneGuestArtifacts({ cacheDir, isNeeded, ...options })),
    ...(await openImageStore(cacheDir, dataDir).prune(options)),
  ];
}
