import { access } from 'node:fs/promises';
import { type Build, BuildFormatError } from '@torpor/builds';
import { TorporError } from '@torpor/protocol';
import { restoreObstacle } from '@torpor/vmm';
import type { HostContext } from '../host-context.ts';

/** A build that is leased until this is disposed of. */
export interface HeldBuild extends Disposable {
  readonly build: Build;
}

/** The build that a template's id names, leased. Throws `not_found` and `build_invalid`. */
export async function holdTemplate(host: HostContext, templateId: string): Promise<HeldBuild> {
  const { builds } = host;
  const buildId = builds.references.get('template', templateId);
  if (buildId === undefined) {
    throw new TorporError('not_found', `This host has no snapshot ${templateId}.`);
  }
  // Before anything is awaited: once the reference is deleted, the lease alone keeps the build.
  using resources = new DisposableStack();
  resources.use(builds.lease(buildId));
  const build = await builds.check(buildId);
  await checkRestorable(host, build);
  const held = resources.move();
  return { build, [Symbol.dispose]: () => held.dispose() };
}

/**
 * A saved state can be loaded only by the VMM, accelerator and machine type that wrote it.
 * Throws `build_invalid` with the file that is missing or does not match, and the remedy.
 */
export async function checkRestorable(host: HostContext, build: Build): Promise<void> {
  const { origin, manifest } = build;
  const { producer, artifacts } = manifest;
  const obstacle = restoreObstacle(producer, host.vmm);
  if (obstacle !== undefined) throw new BuildFormatError(origin, obstacle.what, obstacle.remedy);
  for (const [role, artifact] of Object.entries(artifacts)) {
    await access(artifact).catch((error: unknown) => {
      throw new TorporError('build_invalid', `${origin}: its ${role}, ${artifact}, is missing.`, {
        remedy: 'Restore that file, or delete what was made from the build.',
        cause: error,
      });
    });
  }
}

/** The properties of a sandbox that its build fixes. */
export function frozenShape({ manifest }: Build) {
  const { vcpus, memoryMiB, diskMiB } = manifest;
  return { vcpus, memoryMiB, diskSizeMiB: diskMiB };
}
