import { join } from 'node:path';
import { artifactSize, listArtifacts, removeArtifact } from './artifact-cache.ts';

export interface PruneOptions {
  readonly cacheDir: string;
  /** Whether a new or existing sandbox or a build needs the artefact with this key. */
  readonly isNeeded: (key: string) => boolean;
  /** Removes nothing and returns what would be removed. */
  readonly dryRun?: boolean;
}

export interface PrunedArtifact {
  /** Its directory. */
  readonly path: string;
  /** The space that it occupied on the disk. */
  readonly bytes: number;
}

const KINDS = ['agent-drives', 'initramfs', 'kernels'] as const;

/**
 * Removes guest artefacts of earlier versions that are no longer needed, and returns them. A
 * paused sandbox needs exactly the drives that it ran with, so `isNeeded` must return true for
 * those too.
 */
export async function pruneGuestArtifacts(options: PruneOptions): Promise<PrunedArtifact[]> {
  const pruned: PrunedArtifact[] = [];
  for (const kind of KINDS) {
    const directory = join(options.cacheDir, kind);
    const keys = (await listArtifacts(directory)).filter((key) => !options.isNeeded(key));
    pruned.push(...(await removeArtifacts(directory, keys, options)));
  }
  return pruned;
}

/** Removes artefacts of one kind, or with `dryRun` only measures them. */
export async function removeArtifacts(
  directory: string,
  keys: readonly string[],
  options: { readonly dryRun?: boolean },
): Promise<PrunedArtifact[]> {
  const removed: PrunedArtifact[] = [];
  for (const key of keys) {
    const bytes = await artifactSize(directory, key);
    if (options.dryRun !== true) await removeArtifact(directory, key);
    removed.push({ path: join(directory, key), bytes });
  }
  return removed;
}
