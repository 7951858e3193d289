import type { Build } from '@torpor/builds';
import type { HostContext } from '../host-context.ts';

/**
 * Compacts the chain of a paused sandbox's build if it names too many builds, or mostly unused
 * blocks. The caller holds the sandbox's lock: the pause, and a resume after it, wait for this.
 * The sandbox's reference names the compacted build once `adopt` has resolved for it; if
 * anything fails, it names the old one. Does not throw.
 */
export async function compactIfDue(
  host: HostContext,
  sandboxId: string,
  build: Build,
  adopt: (buildId: string) => Promise<void>,
): Promise<void> {
  const { builds } = host;
  const refer = (buildId: string) => builds.references.set('sandbox', sandboxId, buildId);
  // Until the reference names the compacted build, or the old one again.
  using _lease = builds.lease(build.id);
  try {
    const buildId = await builds.compact(build, refer);
    if (buildId === undefined) return;
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
