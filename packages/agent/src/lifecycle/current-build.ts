import type { Build } from '@torpor/builds';
import type { PhaseTimer } from '../phase-timer.ts';
import type { SandboxRegistry } from '../registry/registry.ts';
import type { Sandbox } from '../registry/sandbox.ts';
import { commitAndKeepRunning } from './commit-sandbox.ts';
import { pauseRunning } from './pause.ts';
import { notPossible } from './refusals.ts';

/**
 * A build of the current state of a sandbox: the one it is paused in, or a new one. The caller
 * holds the sandbox's lock. Throws `invalid_state` unless it is running or paused.
 */
export async function currentBuild(
  registry: SandboxRegistry,
  sandbox: Sandbox,
  source: { readonly keepRunning: boolean; readonly timer: PhaseTimer },
): Promise<Build> {
  if (sandbox.record.state === 'running') {
    if (source.keepRunning) return commitAndKeepRunning(registry, sandbox, source.timer);
    await pauseRunning(registry, sandbox, source.timer);
  }
  const { state, buildId } = sandbox.record;
  if (state !== 'paused' || buildId === undefined) throw notPossible(sandbox, 'committed');
  return registry.host.builds.check(buildId);
}
