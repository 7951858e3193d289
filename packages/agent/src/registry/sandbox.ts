import type { MicroVm } from '@torpor/vmm';
import type { GuestClient } from '../guest/guest-client.ts';
import type { NetworkSlot } from '../network/slot.ts';
import { Activity, type MonotonicClock } from './activity.ts';
import type { SandboxRecord } from './record.ts';

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

/** What the record of a sandbox keeps of its machine's memory. */
export function memoryRecord({
  parentId,
  parentSnapshot,
  servedAs,
}: Pick<RunningMachine, 'parentId' | 'parentSnapshot' | 'servedAs'>): SandboxRecord['memory'] {
  return {
    ...(parentId === undefined ? {} : { parentId }),
    ...(parentSnapshot === undefined ? {} : { parentSnapshot }),
    ...(servedAs === undefined ? {} : { servedAs }),
  };
}

/**
 * A sandbox that this host knows. `record` and `machine` change only while the
 * sandbox's lock is held; anybody may read them.
 */
export class Sandbox {
  readonly id: string;
  readonly #now: MonotonicClock;
  #activity: Activity;
  /** Aborted when the sandbox is to be destroyed before it has come up. */
  readonly creation = new AbortController();
  record: SandboxRecord;
  machine: RunningMachine | undefined;

  constructor(record: SandboxRecord, now: MonotonicClock, machine?: RunningMachine) {
    this.id = record.id;
    this.record = record;
    this.machine = machine;
    this.#now = now;
    this.#activity = new Activity(now, record.lastActiveAt);
  }

  get activity(): Activity {
    return this.#activity;
  }

  /** For a new machine: who still holds the one before does not keep this one from being idle. */
  restartActivity(): void {
    this.#activity = new Activity(this.#now);
  }
}
