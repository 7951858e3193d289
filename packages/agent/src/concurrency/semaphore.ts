export interface SemaphoreOptions {
  /** Runs before all waiting actions that are not urgent; first come, first served among urgent ones. */
  readonly urgent?: boolean;
}

/**
 * Runs a bounded number of actions at a time, first come, first served. A permit passes from an
 * action that has settled directly to the one that has waited longest, so that no new one
 * overtakes it.
 */
export class Semaphore {
  #free: number;
  readonly #urgent: (() => void)[] = [];
  readonly #waiting: (() => void)[] = [];

  /** Throws RangeError unless `permits` is a whole number of at least 1. */
  constructor(permits: number) {
    if (!Number.isInteger(permits) || permits < 1) {
      throw new RangeError(`A semaphore needs at least one permit, not ${permits}.`);
    }
    this.#free = permits;
  }

  /** Runs `action` once a permit is free, and returns the permit when it has settled. */
  async run<T>(action: () => Promise<T>, options: SemaphoreOptions = {}): Promise<T> {
    if (this.#free > 0) this.#free--;
    else await this.#turn(options.urgent === true ? this.#urgent : this.#waiting);
    try {
      return await action();
    } finally {
      const next = this.#urgent.shift() ?? this.#waiting.shift();
      if (next === undefined) this.#free++;
      else next();
    }
  }

  #turn(queue: (() => void)[]): Promise<void> {
    return new Promise((resolve) => queue.push(resolve));
  }
}
