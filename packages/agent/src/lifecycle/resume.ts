import { rm } from 'node:fs/promises';
import { TorporError } from '@torpor/protocol';
import { checkRestorable } from '../builds/checkout.ts';
import { requireFreeMemory } from '../machine/free-memory.ts';
import { PhaseTimer } from '../phase-timer.ts';
import { NO_MACHINE } from '../registry/record.ts';
import type { SandboxRegistry } from '../registry/registry.ts';
import type { Sandbox } from '../registry/sandbox.ts';
import { bringUpSandbox } from './bring-up-sandbox.ts';
import { originalError } from './original-error.ts';
import { outcome, type SandboxOutcome } from './outcome.ts';
import { notPossible } from './refusals.ts';
import { freeSandbox } from './release.ts';

/**
 * Idempotent. `timeoutSec`: a new time to live. Throws `not_found`, `conflict` for a fence that
 * is too low, `invalid_state`, `build_invalid`, and the errors of starting a machine; then it is paused as before.
 */
export async function resumeSandbox(
  registry: SandboxRegistry,
  id: string,
  timeoutSec?: number,
  fence?: number,
): Promise<SandboxOutcome> {
  registry.requireOpen();
  return registry.run(id, async () => {
    const timer = new PhaseTimer();
    const sandbox = registry.find(id);
    registry.admit(id, fence);
    if (sandbox.record.state !== 'running') await resume(registry, sandbox, timer);
    if (timeoutSec !== undefined) {
      await registry.records.change(sandbox, { spec: { ...sandbox.record.spec, timeoutSec } });
    }
    return outcome(sandbox, timer);
  });
}

async function resume(
  registry: SandboxRegistry,
  sandbox: Sandbox,
  timer: PhaseTimer,
): Promise<void> {
  const { host, records } = registry;
  const { state, buildId, spec } = sandbox.record;
  if (buildId === undefined || (state !== 'paused' && state !== 'error')) {
    throw notPossible(sandbox, 'resumed');
  }
  const { builds } = host;
  using _lease = builds.lease(buildId);
  const build = await builds.check(buildId);
  await checkRestorable(host, build);
  await requireFreeMemory(host, spec.memoryMiB);
  // Resources that an earlier attempt may have failed to release.
  await freeSandbox(registry, sandbox);
  await records.transition(sandbox, 'resuming', {
    ...NO_MACHINE,
    lastSlotIndex: sandbox.record.slot?.index ?? sandbox.record.lastSlotIndex,
    reason: undefined,
  });
  try {
    await bringUpSandbox(registry, sandbox, { build, environment: {}, timer });
  } catch (error) {
    const failure = TorporError.from(originalError(error));
    host.logger.warn({ sandbox: sandbox.id, err: error }, 'Sandbox not resumed');
    await stayPaused(registry, sandbox, failure);
    throw failure;
  }
}

/** Releases what a failed resume left; the sandbox becomes `error` if that fails too. */
async function stayPaused(
  registry: SandboxRegistry,
  sandbox: Sandbox,
  failure: TorporError,
): Promise<void> {
  const { host, records } = registry;
  try {
    await freeSandbox(registry, sandbox);
    await rm(host.layout.upperDisk(sandbox.id), { force: true });
  } catch (error) {
    const why = TorporError.from(error).message;
    const reason = `${failure.message} It could not be taken down either: ${why}`;
    await records.transition(sandbox, 'error', { reason });
    return;
  }
  await records.transition(sandbox, 'paused');
}
