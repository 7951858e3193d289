import { exitCodeOfSignal } from '../exit-codes.ts';
import type { Io, TerminationSignal } from '../io.ts';
import { news } from '../output/progress.ts';
import { watchNpm } from './npm-parent.ts';

/**
 * A request to stop the server: a signal, the end of the npm that started it, or a call.
 * A second signal ends the process at once.
 */
export class StopRequest {
  readonly requested: Promise<void>;
  readonly #resolve: () => void;
  readonly #io: Io;
  readonly #release: readonly (() => void)[];
  #signalled = false;

  constructor(io: Io) {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.requested = promise;
    this.#resolve = resolve;
    this.#io = io;
    this.#release = [
      io.onSignal((signal) => this.#onSignal(signal)),
      watchNpm(() => this.request()),
    ];
  }

  request(): void {
    this.#resolve();
  }

  dispose(): void {
    for (const release of this.#release) release();
  }

  #onSignal(signal: TerminationSignal): void {
    if (this.#signalled) process.exit(exitCodeOfSignal(signal));
    this.#signalled = true;
    news(this.#io, 'stopping; send the signal again to stop at once');
    this.request();
  }
}
