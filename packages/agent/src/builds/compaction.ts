import { stat } from 'node:fs/promises';
import { BLOCK_SIZE, BUILD_FILES, type Build, compact, needsCompaction } from '@torpor/builds';
import { copySparse } from '@torpor/linux';
import type { HostContext } from '../host-context.ts';

/**
 * Compacts the chain of a paused sandbox's build if it names too many builds, or mostly dead
 * blocks: only the next resume waits for this. The sandbox's reference names the compacted
 * build once `adopt` has resolved for it; if anything fails, it names the old one. Does not
 * throw.
 */
export async function compactIfDue(
  host: HostContext,
  sandboxId: string,
  build: Build,
  adopt: (buildId: string) => Promise<void>,
): Promise<void> {
  const { builds } = host.snapshots;
  const refer = (buildId: string) => builds.references.set('sandbox', sandboxId, buildId);
  using _lease = builds.lease(build.id);
  try {
    const stored = await storedBlocks(host, build);
    if (!needsCompaction(build.header.mapping, (holder) => stored.get(holder) ?? 0)) return;
    const buildId = await compact(builds, build, copySparse, refer);
    try {
      await adopt(buildId);
    } catch (error) {
      await refer(build.id);
      throw error;
    }
  } catch (error) {
    host.logger.warn({ sandbox: sandboxId, err: error }, 'Builds not compacted');
  }
}

/** Blocks of RAM that each build of the chain holds. */
async function storedBlocks(host: HostContext, { header }: Build): Promise<Map<string, number>> {
  const stored = new Map<string, number>();
  for (const holder of header.mapping.builds) {
    const { size } = await stat(host.snapshots.builds.path(holder, BUILD_FILES.memory));
    stored.set(holder, size / BLOCK_SIZE);
  }
  return stored;
}
