import { isProcessAlive } from '@torpor/linux';
import type { DirtyBase, MachineDescription } from '@torpor/vmm';
import type { HostContext } from '../host-context.ts';
import { connectGuest, holdMachine, removeRunFiles } from './context.ts';
import type { RunningMachine } from './running-machine.ts';
import { adoptMemory } from './served-memory.ts';

const HEALTH_TIMEOUT_MS = 15_000;

/** An earlier agent's record of a machine. */
export interface RecordedMachine {
  readonly id: string;
  readonly description: MachineDescription;
  readonly slotIndex: number;
  readonly base: DirtyBase;
  readonly servedAs: string | undefined;
}

/**
 * Adopts a machine that an earlier agent started; undefined if its VMM has exited. Throws
 * what its pager, its driver and its slot throw; then the machine still runs.
 */
export async function adoptMachine(
  host: HostContext,
  recorded: RecordedMachine,
): Promise<RunningMachine | undefined> {
  const { id, description, servedAs } = recorded;
  // The pager drops a machine that has exited, and would be reported as the cause.
  if (!isProcessAlive(description)) return undefined;
  await using resources = new AsyncDisposableStack();
  const served = servedAs === undefined ? undefined : await adoptMemory(host, servedAs, resources);
  const vm = await host.driver.adopt(description);
  if (vm === undefined) return undefined;
  await using stack = new AsyncDisposableStack();
  stack.defer(() => vm.detach());
  const slot = await host.slots.adopt(id, recorded.slotIndex);
  resources.defer(() => host.slots.release(slot));
  resources.defer(() => removeRunFiles(host, id));
  const context = { host, id, stack: resources };
  await holdMachine(context, vm);
  if (served !== undefined) served.vm = vm;
  const guest = connectGuest(context, slot);
  // It may have been stopped to be committed.
  await vm.resume();
  // A guest that does not respond keeps running: only the exit of its VMM loses a sandbox.
  if (!(await guest.isHealthy(HEALTH_TIMEOUT_MS))) {
    host.logger.warn({ sandbox: id }, 'Guest of an adopted sandbox did not respond');
  }
  stack.move();
  return {
    vm,
    slot,
    guest,
    base: recorded.base,
    servedAs,
    fault: () => served?.reason,
    resources: resources.move(),
  };
}
