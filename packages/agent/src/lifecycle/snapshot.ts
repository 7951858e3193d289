import type { Build } from '@torpor/builds';
import { BOOT_PREFIX, checkTemplateId } from '../builds/reference-names.ts';
import { PhaseTimer } from '../phase-timer.ts';
import type { SandboxRegistry } from '../registry/registry.ts';
import { currentBuild } from './current-build.ts';
import { outcome, type SandboxOutcome } from './outcome.ts';

export interface SnapshotOutcome extends SandboxOutcome {
  readonly build: Build;
  /** Bytes that the build occupies. */
  readonly sizeBytes: number;
}

/**
 * Saves the current state of a sandbox under a template's id, replacing the build that it named
 * before. A running source is paused, unless it is to keep running. Throws `conflict` for a fence
 * that is too low.
 */
export async function snapshotSandbox(
  registry: SandboxRegistry,
  id: string,
  templateId: string,
  options: { readonly resumeSource: boolean; readonly fence?: number | undefined },
): Promise<SnapshotOutcome> {
  checkTemplateId(templateId);
  registry.requireOpen();
  const { host } = registry;
  return registry.run(id, async () => {
    const timer = new PhaseTimer();
    const sandbox = registry.find(id);
    const { fence } = options;
    registry.admit(id, fence);
    registry.fences.admit(templateId, fence);
    const source = { keepRunning: options.resumeSource, timer };
    const build = await currentBuild(registry, sandbox, source);
    // It may have been released meanwhile: then no row of a control plane has it.
    registry.fences.admit(templateId, fence);
    await host.builds.references.set('template', templateId, build.id);
    // The previous build of the name may be unreferenced now.
    registry.collector.soon();
    const sizeBytes = await host.builds.size(build.id);
    return { ...outcome(sandbox, timer), build, sizeBytes };
  });
}

/** The ids of the templates whose builds are kept. */
export function listSnapshots({ host }: SandboxRegistry): string[] {
  return host.builds.references
    .all()
    .filter(({ kind, name }) => kind === 'template' && !name.startsWith(BOOT_PREFIX))
    .map(({ name }) => name);
}

/** The name is free at once; the build is collected when nothing else refers to it. Idempotent. */
export async function deleteSnapshot(
  registry: SandboxRegistry,
  templateId: string,
  fence?: number,
): Promise<void> {
  checkTemplateId(templateId);
  registry.fences.admit(templateId, fence);
  await registry.host.builds.references.delete('template', templateId);
  registry.collector.soon();
}
