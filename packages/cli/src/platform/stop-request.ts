import { exitCodeOfSignal } from '../exit-codes.ts';
import type { Io } from '../io.ts';
import { printStatus } from '../output/progress.ts';
import type { TerminationSignal } from '../termination-signals.ts';

/**
 * A request to stop the server: a signal, or a call.
 * A second signal terminates the process at once.
 */
export class StopRequest {
  readonly requested: Promise<void>;
  readonly #resolve: () => void;
  readonly #io: Io;
  readonly #unsubscribe: () => void;
  #signalled = false;

  constructor(io: Io) {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.requested = promise;
    this.#resolve = resolve;
    this.#io = io;
    this.#unsubscribe = io.onSignal((signal) => this.#onSignal(signal));
  }

  request(): void {
    this.#resolve();
  }

  dispose(): void {
    this.#unsubscribe();
  }

  #onSignal(signal: TerminationSignal): void {
    if (this.#signalled) process.exit(exitCodeOfSignal(signal));
    this.#signalled = true;
    printStatus(this.#io, 'stopping; send the signal again to stop at once');
    this.request();
  }
}
