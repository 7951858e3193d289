import type { HostContext } from '../host-context.ts';
import { watchMachine } from '../lifecycle/machine-exit.ts';
import { SandboxRegistry } from '../registry/registry.ts';
import { reclaim } from './reclaim.ts';

/** The sandboxes of a host when its agent starts: those that earlier agents left, recovered. */
export async function recoverSandboxes(host: HostContext): Promise<SandboxRegistry> {
  const registry = new SandboxRegistry(host);
  for (const { record, machine } of await reclaim(host)) {
    const sandbox = registry.add(record, machine);
    if (machine !== undefined) watchMachine(registry, sandbox, machine);
  }
  return registry;
}
