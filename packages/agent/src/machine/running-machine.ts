import type { DirtyBase, MicroVm } from '@torpor/vmm';
import type { GuestClient } from '../guest/guest-client.ts';
import type { NetworkSlot } from '../network/slot.ts';

/** The live part of a running sandbox. `resources` releases all of it, in reverse order. */
export interface RunningMachine {
  /** What its RAM is compared with when it is committed; it changes with each commit. */
  base: DirtyBase;
  /** Names it at the pager, which fills its memory; not set where none serves it. */
  readonly servedAs?: string | undefined;
  /** Why it had to be killed, if it had to. */
  readonly fault: () => string | undefined;
  readonly vm: MicroVm;
  readonly slot: NetworkSlot;
  readonly guest: GuestClient;
  readonly resources: AsyncDisposableStack;
}
