import { TorporError } from '@torpor/protocol';
import { checkRestorable } from '../builds/checkout.ts';
import { PhaseTimer } from '../phase-timer.ts';
import type { SandboxSpec } from '../registry/record.ts';
import type { SandboxRegistry } from '../registry/registry.ts';
import { createFrom } from './create.ts';
import { currentBuild } from './current-build.ts';
import { outcome, type SandboxOutcome } from './outcome.ts';

export interface ForkedSandbox {
  readonly id: string;
  readonly result: SandboxOutcome | TorporError;
}

export interface ForkOutcome {
  readonly children: readonly ForkedSandbox[];
  readonly source: SandboxOutcome;
}

/**
 * Makes copies of a sandbox, which itself is unchanged. A copy that fails does not affect the
 * others. Throws `conflict` for a fence that is too low for one of them.
 */
export async function forkSandbox(
  registry: SandboxRegistry,
  id: string,
  childIds: readonly string[],
  timeoutSec: number,
  fence?: number,
): Promise<ForkOutcome> {
  registry.requireOpen();
  for (const childId of childIds) registry.admit(childId, fence);
  const { host } = registry;
  const timer = new PhaseTimer();
  using resources = new DisposableStack();
  const { build, sandbox } = await registry.run(id, async () => {
    const source = registry.find(id);
    const present = await currentBuild(registry, source, { keepRunning: true, timer });
    resources.use(host.builds.lease(present.id));
    await checkRestorable(host, present);
    return { build: present, sandbox: source };
  });
  const { spec } = sandbox.record;
  const createChild = async (childId: string): Promise<ForkedSandbox> => {
    const child: SandboxSpec = { ...spec, timeoutSec, hostname: childId };
    const created = createFrom(registry, {
      id: childId,
      spec: child,
      environment: {},
      build,
      fence,
    });
    return {
      id: childId,
      result: await created.catch((error: unknown) => TorporError.from(error)),
    };
  };
  const children = await timer.measure('children', () => Promise.all(childIds.map(createChild)));
  // The source may have been destroyed meanwhile; the children exist all the same.
  return { children, source: outcome(sandbox, timer) };
}
