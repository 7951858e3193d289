import type { Logger } from 'pino';
import type { SandboxManager } from './manager.ts';

const INTERVAL_MS = 1000;

/** Ends idle sandboxes, once a second, until it is disposed of. */
export class Reaper implements AsyncDisposable {
  readonly #timer: NodeJS.Timeout;
  #round: Promise<void> | undefined;

  constructor(manager: Pick<SandboxManager, 'endIdle'>, logger: Logger) {
    this.#timer = setInterval(() => {
      // A round that takes longer than the interval is not joined by another.
      this.#round ??= manager
        .endIdle()
        .catch((error: unknown) => logger.error({ err: error }, 'reaper'))
        .finally(() => {
          this.#round = undefined;
        });
    }, INTERVAL_MS);
    this.#timer.unref();
  }

  /** Waits for the round that runs. */
  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    await this.#round;
  }
}
