/**
 * One lock per key, first come, first served. It is not re-entrant: whoever holds a
 * key's lock must not ask for it again.
 */
export class KeyedLock {
  readonly #tails = new Map<string, Promise<void>>();

  /** Runs `action` when all earlier ones for this key have ended, however they ended. */
  async with<T>(key: string, action: () => Promise<T>): Promise<T> {
    const before = this.#tails.get(key) ?? Promise.resolve();
    const { promise: done, resolve: release } = Promise.withResolvers<void>();
    const tail = before.then(() => done);
    this.#tails.set(key, tail);
    await before;
    try {
      return await action();
    } finally {
      release();
      if (this.#tails.get(key) === tail) this.#tails.delete(key);
    }
  }

  /** How many keys are locked or waited for. */
  get size(): number {
    return this.#tails.size;
  }
}
