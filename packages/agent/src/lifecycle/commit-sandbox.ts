import type { Build } from '@torpor/builds';
import { TorporError } from '@torpor/protocol';
import { type CommittedMachine, commitMachine } from '../builds/commit.ts';
import type { RunningMachine } from '../machine/running-machine.ts';
import type { PhaseTimer } from '../phase-timer.ts';
import { memoryRecord, NO_MACHINE } from '../registry/record.ts';
import type { RecordChanges } from '../registry/records.ts';
import type { SandboxRegistry } from '../registry/registry.ts';
import type { Sandbox } from '../registry/sandbox.ts';
import { originalError } from './original-error.ts';
import { requireRunning } from './refusals.ts';
import { freeSandbox } from './release.ts';

/** Commits a machine and leaves its vCPUs stopped. If that fails, it keeps running. */
export async function commitSandbox(
  registry: SandboxRegistry,
  sandbox: Sandbox,
  machine: RunningMachine,
  how: { readonly disk: 'move' | 'copy'; readonly timer: PhaseTimer },
): Promise<CommittedMachine> {
  const { host } = registry;
  const { id } = sandbox;
  try {
    await how.timer.measure('stop', () => machine.vm.pause());
    return await commitMachine(host, {
      vm: machine.vm,
      diskMiB: sandbox.record.spec.diskSizeMiB,
      owner: id,
      sandboxId: id,
      base: machine.base,
      upperDisk: host.layout.upperDisk(id),
      ...how,
    });
  } catch (error) {
    const failure = TorporError.from(originalError(error));
    host.logger.warn({ sandbox: id, err: error }, 'Sandbox not committed and left running');
    await keepRunning(registry, sandbox, machine, {}).catch((resumeError: unknown) => {
      host.logger.error({ sandbox: id, err: resumeError }, 'Machine could not be resumed');
    });
    throw failure;
  }
}

/** Commits a running sandbox, which keeps running. */
export async function commitAndKeepRunning(
  registry: SandboxRegistry,
  sandbox: Sandbox,
  timer: PhaseTimer,
): Promise<Build> {
  const machine = requireRunning(sandbox, 'committed');
  await registry.records.transition(sandbox, 'snapshotting');
  const how = { disk: 'copy', timer } as const;
  const { build, base } = await commitSandbox(registry, sandbox, machine, how);
  machine.base = base;
  const changes = { buildId: build.id, memory: memoryRecord(machine) };
  await keepRunning(registry, sandbox, machine, changes);
  registry.collector.soon();
  return build;
}

/** Resumes the vCPUs of a stopped machine. If that fails, the machine is released and the sandbox is `error`. */
async function keepRunning(
  registry: SandboxRegistry,
  sandbox: Sandbox,
  machine: RunningMachine,
  changes: RecordChanges,
): Promise<void> {
  const { records } = registry;
  try {
    await machine.vm.resume();
  } catch (error) {
    const failure = TorporError.from(error);
    const reason = machine.fault() ?? `The machine could not be resumed: ${failure.message}`;
    await records.transition(sandbox, 'error', { ...changes, ...NO_MACHINE, reason });
    await freeSandbox(registry, sandbox);
    throw failure;
  }
  await records.transition(sandbox, 'running', changes);
}
