import { setTimeout as delay } from 'node:timers/promises';
import { TorporError } from '@torpor/protocol';
import type { Logger } from 'pino';

interface TaskOptions {
  readonly intervalMs: number;
  readonly logger: Logger;
  /** What is logged when a round fails, such as "Could not remove old rows"; the next round tries again. */
  readonly failure: string;
}

/** Does something at once, and again at an interval after each round, until it is disposed of. */
export class PeriodicTask implements AsyncDisposable {
  readonly #stopping = new AbortController();
  readonly #rounds: Promise<void>;

  /** `round` gets a signal that aborts when it is to return early. */
  constructor(options: TaskOptions, round: (signal: AbortSignal) => Promise<void>) {
    this.#rounds = repeat(options, round, this.#stopping.signal);
  }

  /** Waits for the round that is under way. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping.abort();
    await this.#rounds;
  }
}

async function repeat(
  { intervalMs, logger, failure }: TaskOptions,
  round: (signal: AbortSignal) => Promise<void>,
  signal: AbortSignal,
): Promise<void> {
  while (!signal.aborted) {
    try {
      await round(signal);
    } catch (reason) {
      logger.warn({ err: TorporError.from(reason) }, `${failure}; will retry`);
    }
    await delay(intervalMs, undefined, { signal, ref: false }).catch(() => undefined);
  }
}
