import { Semaphore } from './semaphore.ts';

interface Lock {
  readonly semaphore: Semaphore;
  /** Those that hold it or wait for it. */
  users: number;
}

/**
 * One lock per key, first come, first served. It is not re-entrant: an action must not ask
 * for the lock of the key that it holds.
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
