import { REMEDIES, TorporError } from '@torpor/protocol';
import type { MonotonicClock } from '../host-context.ts';

/** Longer than a call can be on its way: a control plane sends it as soon as it has the fence. */
const KEPT_MS = 3_600_000;

interface Seen {
  readonly fence: number;
  readonly at: number;
}

/**
 * The highest fence of the calls about each sandbox and template: a call with a lower one is
 * late, because another control plane has acquired its leases and settled it. Fences of
 * different resources are comparable, as all come from one sequence. So what has not been seen
 * for a while is forgotten for one lower limit, and this also knows the ids that do not exist yet.
 *
 * In memory only, except that the record of a sandbox has its fence. What a new agent has
 * forgotten can do no damage: a template is named only from a sandbox, and a sandbox
 * whose create was settled as failed is destroyed by the reconciler.
 */
export class Fences {
  readonly #now: MonotonicClock;
  /** The most recently seen last. */
  readonly #highest = new Map<string, Seen>();
  #limit = 0;

  constructor(now: MonotonicClock) {
    this.#now = now;
  }

  /** Remembers the fence of a call. Throws `conflict` if a higher one is known; a call without one is admitted. */
  admit(resource: string, fence: number | undefined): void {
    if (fence === undefined) return;
    this.#forget();
    if (fence < (this.#highest.get(resource)?.fence ?? this.#limit)) {
      throw new TorporError(
        'conflict',
        'This call is too late: another control plane has finished the operation that it belongs to.',
        { remedy: REMEDIES.lookAndRetry },
      );
    }
    this.#highest.delete(resource);
    this.#highest.set(resource, { fence, at: this.#now() });
  }

  #forget(): void {
    for (const [resource, { fence, at }] of this.#highest) {
      if (this.#now() - at < KEPT_MS) return;
      this.#highest.delete(resource);
      this.#limit = Math.max(this.#limit, fence);
    }
  }
}
