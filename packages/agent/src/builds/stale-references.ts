import type { ReferenceKind } from '@torpor/builds';
import { isSamePlatform } from '@torpor/vmm';
import type { HostContext } from '../host-context.ts';
import { BOOT_PREFIX } from './reference-names.ts';

/**
 * Drops, at start-up, the references of sandboxes that no longer exist, and of kept boots whose
 * files no longer exist or that were made with another VMM.
 */
export async function dropStaleReferences(
  host: HostContext,
  sandboxExists: (id: string) => boolean,
): Promise<void> {
  const { builds } = host;
  const isStale = (kind: ReferenceKind, name: string, buildId: string) => {
    if (kind === 'sandbox') return !sandboxExists(name);
    return name.startsWith(BOOT_PREFIX) && isStaleBoot(host, buildId);
  };
  for (const { kind, name, buildId } of builds.references.all()) {
    if (await isStale(kind, name, buildId)) await builds.references.delete(kind, name);
  }
}

async function isStaleBoot(host: HostContext, buildId: string): Promise<boolean> {
  const build = await host.builds.get(buildId).catch(() => undefined);
  if (build === undefined) return true;
  const { producer, artifacts } = build.manifest;
  const { initramfsPath, agentDrivePath } = host.artifacts;
  return (
    artifacts.initramfs !== initramfsPath ||
    artifacts.agent !== agentDrivePath ||
    !isSamePlatform(producer, host.vmm)
  );
}
