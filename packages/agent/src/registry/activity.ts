import type { MonotonicClock } from '../host-context.ts';

/**
 * When a sandbox was used last. An open stream counts as use as long as it is open. After a
 * restart of the agent the time starts again.
 */
export class Activity {
  readonly #now: MonotonicClock;
  #last: number;
  #lastWallClock: number;
  #open = 0;

  constructor(now: MonotonicClock, lastActiveAt = Date.now()) {
    this.#now = now;
    this.#last = now();
    this.#lastWallClock = lastActiveAt;
  }

  /** Unix milliseconds. */
  get lastActiveAt(): number {
    return this.#open > 0 ? Date.now() : this.#lastWallClock;
  }

  touch(): void {
    this.#last = this.#now();
    this.#lastWallClock = Date.now();
  }

  /** Counts as use until it is disposed of. */
  lease(): Disposable {
    this.touch();
    this.#open++;
    let open = true;
    return {
      [Symbol.dispose]: () => {
        if (!open) return;
        open = false;
        this.#open--;
        this.touch();
      },
    };
  }

  /** Milliseconds since the last use; 0 while a stream is open. */
  idleMs(): number {
    return this.#open > 0 ? 0 : this.#now() - this.#last;
  }
}
