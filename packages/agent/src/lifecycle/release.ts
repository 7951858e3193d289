import { rm } from 'node:fs/promises';
import { syncDirectory } from '@torpor/linux';
import { takeDownOwned } from '../machine/take-down.ts';
import type { SandboxRegistry } from '../registry/registry.ts';
import type { Sandbox } from '../registry/sandbox.ts';

/*
 * Releases the resources of a sandbox, at three levels: its machine; everything outside its
 * directory; everything.
 */

/** Kills the machine and releases its resources. Those that cannot be released stay in the journal. */
export async function releaseMachine({ host }: SandboxRegistry, sandbox: Sandbox): Promise<void> {
  const { machine } = sandbox;
  sandbox.machine = undefined;
  try {
    await machine?.resources.disposeAsync();
  } catch (error) {
    host.logger.warn({ sandbox: sandbox.id, err: error }, 'Not everything was released');
  }
}

/** Releases everything outside the sandbox's directory. Throws if something cannot be released. */
export async function freeSandbox(registry: SandboxRegistry, sandbox: Sandbox): Promise<void> {
  await releaseMachine(registry, sandbox);
  await takeDownOwned(registry.host, sandbox.id);
}

/** Removes all remaining resources of a sandbox without a machine. Throws if something cannot be removed. */
export async function removeSandbox(registry: SandboxRegistry, sandbox: Sandbox): Promise<void> {
  const { host } = registry;
  await takeDownOwned(host, sandbox.id);
  await rm(host.layout.sandboxDirectory(sandbox.id), { recursive: true, force: true });
  await syncDirectory(host.layout.sandboxesRoot);
  const { references } = host.builds;
  if (references.get('sandbox', sandbox.id) !== undefined) {
    await references.delete('sandbox', sandbox.id);
    registry.collector.soon();
  }
  registry.delete(sandbox);
}

/** Resets the host's connections to a guest that no longer exists. */
export async function resetConnections({ host }: SandboxRegistry, sandbox: Sandbox): Promise<void> {
  const { slot, lastSlotIndex } = sandbox.record;
  const index = slot?.index ?? lastSlotIndex;
  if (index === undefined) return;
  await host.slots.resetConnections(index).catch((error: unknown) => {
    host.logger.warn({ sandbox: sandbox.id, err: error }, 'Connections not reset');
  });
}
