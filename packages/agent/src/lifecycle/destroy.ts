import { rm } from 'node:fs/promises';
import { assertTransition, TorporError, tracePart } from '@torpor/protocol';
import type { SandboxRegistry } from '../registry/registry.ts';
import type { Sandbox } from '../registry/sandbox.ts';
import { releaseMachine, removeSandbox, resetConnections } from './release.ts';

/**
 * Destroys a sandbox and removes all of its resources. Idempotent: succeeds if it does not
 * exist. A creation in progress is cancelled. If something cannot be removed, the sandbox stays
 * in state `error` and destroying it can be retried. Throws `conflict` for a fence that is too low.
 */
export async function destroySandbox(
  registry: SandboxRegistry,
  id: string,
  fence?: number,
): Promise<void> {
  registry.admit(id, fence);
  if (!registry.has(id)) return;
  const sandbox = registry.find(id);
  sandbox.creation.abort(
    new TorporError('conflict', `Sandbox ${id} was destroyed while it was being created.`),
  );
  await registry.run(id, async () => {
    if (!registry.isPresent(sandbox)) return;
    registry.admit(id, fence);
    await destroy(registry, sandbox, undefined);
  });
}

/** Destroys a sandbox with a reason, if the condition still applies once its lock is held. */
export async function destroyIf(
  registry: SandboxRegistry,
  sandbox: Sandbox,
  condition: (sandbox: Sandbox) => boolean,
  reason: string,
): Promise<void> {
  await registry.run(sandbox.id, async () => {
    if (registry.isPresent(sandbox) && condition(sandbox)) await destroy(registry, sandbox, reason);
  });
}

/** Destroys all sandboxes. Throws the first error after all have been tried. */
export async function destroyAll(registry: SandboxRegistry): Promise<void> {
  const results = await Promise.allSettled(
    registry.all().map(({ id }) => destroySandbox(registry, id)),
  );
  const failed = results.find((result) => result.status === 'rejected');
  if (failed !== undefined) throw failed.reason;
}

async function destroy(
  registry: SandboxRegistry,
  sandbox: Sandbox,
  reason: string | undefined,
): Promise<void> {
  const { host, records } = registry;
  const { id } = sandbox;
  await records.transition(sandbox, 'destroying', reason === undefined ? {} : { reason });
  try {
    await tracePart('agent.release', {}, () => releaseMachine(registry, sandbox));
    await resetConnections(registry, sandbox);
    await tracePart('agent.remove', {}, async () => {
      // Files are removed before the record is written: the disk may be full.
      await rm(host.layout.upperDisk(id), { force: true });
      await removeSandbox(registry, sandbox);
    });
  } catch (error) {
    const message = `The sandbox could not be taken down: ${TorporError.from(error).message}`;
    await records.transition(sandbox, 'error', { reason: message });
    throw new TorporError('internal_error', message, { cause: error });
  }
  assertTransition(id, sandbox.record.state, 'stopped');
  records.announce(sandbox, 'stopped');
}
