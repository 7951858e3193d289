import type { HostContext } from '../host-context.ts';
import { type BringUpRequest, bringUp } from '../machine/bring-up.ts';
import type { RunningMachine } from '../machine/running-machine.ts';
import { memoryRecord } from '../registry/record.ts';
import type { SandboxRegistry } from '../registry/registry.ts';
import type { Sandbox } from '../registry/sandbox.ts';
import { watchMachine } from './machine-exit.ts';

/** The source of a sandbox's machine. */
export type MachineSource = Pick<BringUpRequest, 'build' | 'environment' | 'timer'>;

/** Starts the machine of a sandbox, which becomes `running`. If that fails, nothing is left of the machine. */
export async function bringUpSandbox(
  registry: SandboxRegistry,
  sandbox: Sandbox,
  source: MachineSource,
): Promise<void> {
  const { host, boots } = registry;
  const { id, spec, uid, lastSlotIndex: preferredSlot, startedAt } = sandbox.record;
  const { signal } = sandbox.creation;
  const machine = await bringUp({ ...source, host, boots, id, spec, uid, preferredSlot, signal });
  const { slot } = machine;
  try {
    await registry.records.transition(sandbox, 'running', {
      slot: { index: slot.index, hostAddress: slot.hostAddress },
      lastSlotIndex: undefined,
      startedAt: startedAt ?? Date.now(),
      machine: machine.vm.description,
      memory: memoryRecord(machine),
      metadata: versions(host, machine),
    });
  } catch (error) {
    await machine.resources.disposeAsync();
    throw error;
  }
  sandbox.machine = machine;
  sandbox.restartActivity();
  watchMachine(registry, sandbox, machine);
}

/** The versions of the software that runs the sandbox. */
function versions(host: HostContext, { vm }: RunningMachine): Record<string, string> {
  const { artifacts, agentVersion } = host;
  const { driver, vmmVersion, accelerator } = vm.description;
  return {
    envd_version: artifacts.envdVersion,
    kernel_version: artifacts.kernel.version,
    vmm: driver,
    vmm_version: vmmVersion,
    accelerator,
    agent_version: agentVersion,
  };
}
