import type { MonotonicClock } from '../host-context.ts';
import type { RunningMachine } from '../machine/running-machine.ts';
import { Activity } from './activity.ts';
import type { SandboxRecord } from './record.ts';

/**
 * A sandbox of this host. `record` and `machine` change only while the sandbox's lock is held;
 * they can be read at any time.
 */
export class Sandbox {
  readonly id: string;
  readonly #now: MonotonicClock;
  #activity: Activity;
  /** Aborted when the sandbox is to be destroyed before its creation has finished. */
  readonly creation = new AbortController();
  record: SandboxRecord;
  machine: RunningMachine | undefined;
  /** The highest of the calls about it; may change at any time. */
  fence: number | undefined;

  constructor(record: SandboxRecord, now: MonotonicClock, machine?: RunningMachine) {
    this.id = record.id;
    this.record = record;
    this.fence = record.fence;
    this.machine = machine;
    this.#now = now;
    this.#activity = new Activity(now, record.lastActiveAt);
  }

  get activity(): Activity {
    return this.#activity;
  }

  /** For a new machine: streams that are still open to the previous one do not count as use of this one. */
  restartActivity(): void {
    this.#activity = new Activity(this.#now);
  }
}
