import { join } from 'node:path';
import type { GuestArtifacts } from '../artifacts.ts';
import { listArtifacts, removeArtifact } from './artifact-cache.ts';

export interface PruneOptions {
  readonly cacheDir: string;
  /** What the next sandbox will use; it stays. */
  readonly current: GuestArtifacts;
  /** Whether a file (agent drive, initramfs, kernel) is still needed by a sandbox or a build. */
  readonly isInUse: (path: string) => boolean | Promise<boolean>;
}

/** Which files of an artefact are handed out, by the directory of its kind. */
const FILES = {
  'agent-drives': ['agent.ext4'],
  initramfs: ['initramfs.cpio'],
  kernels: ['vmlinuz', 'vmlinux'],
} as const;

/**
 * Removes guest artefacts of earlier versions that nothing needs any more, and
 * returns the directories that went. A frozen sandbox needs the very drives that
 * it ran with, so `isInUse` must know of those too.
 */
export async function pruneGuestArtifacts(options: PruneOptions): Promise<string[]> {
  const { current } = options;
  const kept = new Set([
    current.agentDrivePath,
    current.initramfsPath,
    current.kernel.bzImagePath,
    current.kernel.vmlinuxPath,
  ]);
  const isNeeded = async (path: string) => kept.has(path) || (await options.isInUse(path));
  const removed: string[] = [];
  for (const [kind, files] of Object.entries(FILES)) {
    const directory = join(options.cacheDir, kind);
    for (const key of await listArtifacts(directory)) {
      const needed = await Promise.all(files.map((file) => isNeeded(join(directory, key, file))));
      if (needed.includes(true)) continue;
      await removeArtifact(directory, key);
      removed.push(join(directory, key));
    }
  }
  return removed;
}
