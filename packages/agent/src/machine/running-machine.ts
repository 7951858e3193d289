import type { DirtyBase, MicroVm } from '@torpor/vmm';
import type { GuestClient } from '../guest/guest-client.ts';
import type { NetworkSlot } from '../network/slot.ts';

/** The runtime part of a running sandbox. `resources` releases all of it, in reverse order. */
export interface RunningMachine {
  /** What its RAM is compared with when it is committed; it changes with each commit. */
  base: DirtyBase;
  /** Its id at the pager, which serves its memory; not set if none does. */
  readonly servedAs?: string | undefined;
  /** Why the agent killed it, if it did. */
  readonly fault: () => string | undefined;
  readonly vm: MicroVm;
  readonly slot: NetworkSlot;
  readonly guest: GuestClient;
  readonly resources: AsyncDisposableStack;
}
