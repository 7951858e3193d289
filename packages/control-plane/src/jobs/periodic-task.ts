import { TorporError } from '@torpor/protocol';
import type { Logger } from 'pino';

interface TaskOptions {
  readonly intervalMs: number;
  readonly logger: Logger;
  /** What is logged when a round fails, such as "Could not remove old rows"; the next round tries again. */
  readonly failure: string;
}

type Round = (signal: AbortSignal) => Promise<void>;

/** Does something at once, and again at an interval after each round, until it is disposed of. */
export class PeriodicTask implements AsyncDisposable {
  readonly #stopping = new AbortController();
  readonly #rounds: Promise<void>;
  #isWoken = false;
  #wake: () => void = () => undefined;

  /** `round` gets a signal that aborts when it is to return early. */
  constructor(options: TaskOptions, round: Round) {
    this.#rounds = this.#repeat(options, round);
  }

  /** Has the next round begin now, or when the one under way has ended. */
  wake(): void {
    this.#isWoken = true;
    this.#wake();
  }

  /** Waits for the round that is under way. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping.abort();
    this.#wake();
    await this.#rounds;
  }

  async #repeat({ intervalMs, logger, failure }: TaskOptions, round: Round): Promise<void> {
    const { signal } = this.#stopping;
    while (!signal.aborted) {
      this.#isWoken = false;
      try {
        await round(signal);
      } catch (reason) {
        logger.warn({ err: TorporError.from(reason) }, `${failure}; will retry`);
      }
      await this.#pause(intervalMs);
    }
  }

  #pause(ms: number): Promise<void> {
    if (this.#isWoken || this.#stopping.signal.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms).unref();
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
