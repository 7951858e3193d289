import { runOutsideRequest, TorporError } from '@torpor/protocol';
import type { ExitReport } from '@torpor/vmm';
import type { RunningMachine } from '../machine/running-machine.ts';
import { exitReason } from '../machine/wait-for-guest.ts';
import type { SandboxRegistry } from '../registry/registry.ts';
import type { Sandbox } from '../registry/sandbox.ts';
import { freeSandbox, resetConnections } from './release.ts';

/**
 * Reports an unexpected exit of a VMM at once, and releases the sandbox's resources. That is no part
 * of the request that started it.
 */
export function watchMachine(
  registry: SandboxRegistry,
  sandbox: Sandbox,
  machine: RunningMachine,
): void {
  const { logger } = registry.host;
  const report = async (exit: ExitReport): Promise<void> => {
    if (sandbox.machine !== machine) return;
    const reason = machine.fault() ?? exitReason(exit);
    machine.guest.close(new TorporError('vmm_failed', `Sandbox ${sandbox.id}: ${reason}`));
    try {
      await registry.run(sandbox.id, () => handleExit(registry, sandbox, machine, exit));
    } catch (error) {
      logger.error({ sandbox: sandbox.id, err: error }, 'Exit of a VMM could not be handled');
    }
  };
  runOutsideRequest(() => void machine.vm.exited.then(report));
}

async function handleExit(
  registry: SandboxRegistry,
  sandbox: Sandbox,
  machine: RunningMachine,
  report: ExitReport,
): Promise<void> {
  if (sandbox.machine !== machine) return;
  registry.host.logger.warn({ sandbox: sandbox.id, reason: report.reason }, 'VMM exited');
  const reason = machine.fault() ?? exitReason(report);
  await registry.records.transition(sandbox, 'error', { reason });
  await freeSandbox(registry, sandbox);
  await resetConnections(registry, sandbox);
}
