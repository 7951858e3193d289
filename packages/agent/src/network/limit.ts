/** Runs at most `concurrency` functions at a time; urgent ones before others that wait. */
export class Limit {
  #free: number;
  readonly #urgent: (() => void)[] = [];
  readonly #waiting: (() => void)[] = [];

  constructor(concurrency: number) {
    this.#free = concurrency;
  }

  async run<T>(urgency: 'urgent' | 'later', fn: () => Promise<T>): Promise<T> {
    if (this.#free > 0) this.#free -= 1;
    else if (urgency === 'later') await new Promise<void>((go) => this.#waiting.push(go));
    else await new Promise<void>((go) => this.#urgent.push(go));
    try {
      return await fn();
    } finally {
      const next = this.#urgent.shift() ?? this.#waiting.shift();
      if (next === undefined) this.#free += 1;
      else next();
    }
  }
}
