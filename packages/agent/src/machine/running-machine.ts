import type { MicroVm } from '@torpor/vmm';
import type { GuestClient } from '../guest/guest-client.ts';
import type { NetworkSlot } from '../network/slot.ts';

/** The live part of a running sandbox. `resources` releases all of it, in reverse order. */
export interface RunningMachine {
  /** The build that its memory is compared with when it is committed; it changes with each commit. */
  parentId: string | undefined;
  /**
   * Which snapshot of the machine (`MicroVm.snapshot`) its parent is made of; 0: what it was
   * restored from or, without a parent, the zeros that it was booted with. Undefined: not
   * known, or RAM is a file.
   */
  parentSnapshot?: number | undefined;
  /** Names it at the pager, which fills its memory; absent where all of it is there. */
  readonly servedAs?: string | undefined;
  /** Why it had to be killed, if it had to. */
  readonly fault: () => string | undefined;
  readonly vm: MicroVm;
  readonly slot: NetworkSlot;
  readonly guest: GuestClient;
  readonly resources: AsyncDisposableStack;
}

/** The number of what a machine began with, where snapshots of it are numbered. */
export function firstSnapshot(vm: MicroVm): number | undefined {
  return vm.snapshot === undefined ? undefined : 0;
}
