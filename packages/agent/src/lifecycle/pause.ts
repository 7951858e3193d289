import { rm } from 'node:fs/promises';
import { REMEDIES, TorporError } from '@torpor/protocol';
import { compactIfDue } from '../builds/compaction.ts';
import { PhaseTimer } from '../phase-timer.ts';
import { NO_MACHINE } from '../registry/record.ts';
import type { SandboxRegistry } from '../registry/registry.ts';
import type { Sandbox } from '../registry/sandbox.ts';
import { commitSandbox } from './commit-sandbox.ts';
import { outcome, type SandboxOutcome } from './outcome.ts';
import { requireRunning } from './refusals.ts';
import { freeSandbox } from './release.ts';

/** Idempotent. Throws `not_found`, `conflict` for a fence that is too low, `invalid_state`, and the errors of a commit; then it keeps running. */
export async function pauseSandbox(
  registry: SandboxRegistry,
  id: string,
  fence?: number,
): Promise<SandboxOutcome> {
  registry.requireOpen();
  return registry.run(id, async () => {
    const timer = new PhaseTimer();
    const sandbox = registry.find(id);
    registry.admit(id, fence);
    if (sandbox.record.state !== 'paused') await pauseRunning(registry, sandbox, timer);
    return outcome(sandbox, timer);
  });
}

/** As {@link pauseSandbox}, if the condition still applies once the sandbox's lock is held. */
export async function pauseIf(
  registry: SandboxRegistry,
  id: string,
  condition: (sandbox: Sandbox) => boolean,
): Promise<void> {
  registry.requireOpen();
  await registry.run(id, async () => {
    const sandbox = registry.find(id);
    if (condition(sandbox)) await pauseRunning(registry, sandbox, new PhaseTimer());
  });
}

/**
 * The caller holds the sandbox's lock. The build is durable and referenced before the machine
 * that it was made from is released, so a failure at any step leaves the sandbox running or
 * paused.
 */
export async function pauseRunning(
  registry: SandboxRegistry,
  sandbox: Sandbox,
  timer: PhaseTimer,
): Promise<void> {
  const { host, records } = registry;
  const { id } = sandbox;
  const machine = requireRunning(sandbox, 'paused');
  await records.transition(sandbox, 'pausing');
  const how = { disk: 'move', timer } as const;
  const { build } = await commitSandbox(registry, sandbox, machine, how);
  machine.guest.close(
    new TorporError('invalid_state', `Sandbox ${id} has been paused.`, {
      remedy: REMEDIES.resume,
    }),
  );
  try {
    await timer.measure('release', async () => {
      await freeSandbox(registry, sandbox);
      // The build has it.
      await rm(host.layout.upperDisk(id), { force: true });
    });
  } catch (error) {
    const failure = TorporError.from(error);
    const reason = `It was paused, but its machine could not be taken down: ${failure.message}`;
    await records.transition(sandbox, 'error', { ...NO_MACHINE, buildId: build.id, reason });
    throw failure;
  }
  const lastSlotIndex = sandbox.record.slot?.index;
  await records.transition(sandbox, 'paused', { ...NO_MACHINE, lastSlotIndex, buildId: build.id });
  await compactIfDue(host, id, build, (buildId) => records.change(sandbox, { buildId }));
  registry.collector.soon();
}
