import { Semaphore } from './semaphore.ts';

interface Lock {
  readonly semaphore: Semaphore;
  /** The number of actions that have it or wait for it. */
  users: number;
}

/**
 * One lock per key, first come, first served. It is not re-entrant: an action must not take the
 * lock of its own key.
 */
export class KeyedLock {
  readonly #locks = new Map<string, Lock>();

  /** Runs `action` when all earlier ones for this key have settled. */
  async with<T>(key: string, action: () => Promise<T>): Promise<T> {
    const lock = this.#locks.get(key) ?? { semaphore: new Semaphore(1), users: 0 };
    this.#locks.set(key, lock);
    lock.users++;
    try {
      return await lock.semaphore.run(action);
    } finally {
      lock.users--;
      if (lock.users === 0) this.#locks.delete(key);
    }
  }

  /** How many keys are locked or waited for. */
  get size(): number {
    return this.#locks.size;
  }
}
