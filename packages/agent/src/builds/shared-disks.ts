import { stat } from 'node:fs/promises';
import { BUILD_FILES } from '@torpor/builds';
import type { HostContext } from '../host-context.ts';

/**
 * Removes the builds that share the disk of a sandbox that keeps running: published, but not
 * yet referenced when the crash came.
 */
export async function discardBuildsSharingDisk(
  host: HostContext,
  sandboxId: string,
): Promise<void> {
  const { builds } = host.snapshots;
  const disk = await stat(host.layout.upperDisk(sandboxId)).catch(() => undefined);
  if (disk === undefined || disk.nlink < 2) return;
  for (const buildId of await builds.list()) {
    const other = await stat(builds.path(buildId, BUILD_FILES.disk)).catch(() => undefined);
    if (other?.ino === disk.ino && other.dev === disk.dev) await builds.discard(buildId);
  }
}
