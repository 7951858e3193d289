import { join } from 'node:path';
import { artifactSize, listArtifacts, removeArtifact } from './artifact-cache.ts';

export interface PruneOptions {
  readonly cacheDir: string;
  /** Whether something (the next sandbox, a present one, a build) needs the artefact with this key. */
  readonly isNeeded: (key: string) => boolean;
  /** Leaves everything where it is and only tells what would go. */
  readonly dryRun?: boolean;
}

export interface PrunedArtifact {
  /** Its directory. */
  readonly path: string;
  /** What it occupied on the disk. */
  readonly bytes: number;
}

const KINDS = ['agent-drives', 'initramfs', 'kernels'] as const;

/**
 * Removes guest artefacts of earlier versions that nothing needs any more, and
 * returns those that went. A frozen sandbox needs the very drives that it ran with,
 * so `isNeeded` must know of those too.
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
