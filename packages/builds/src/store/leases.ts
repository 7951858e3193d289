/** Counts the users of builds that have no reference. */
export class Leases {
  readonly #holders = new Map<string, number>();

  ids(): Iterable<string> {
    return this.#holders.keys();
  }

  take(id: string): Disposable {
    this.#holders.set(id, (this.#holders.get(id) ?? 0) + 1);
    let held = true;
    return {
      [Symbol.dispose]: () => {
        if (!held) return;
        held = false;
        const left = (this.#holders.get(id) ?? 1) - 1;
        if (left === 0) this.#holders.delete(id);
        else this.#holders.set(id, left);
      },
    };
  }
}
