import { SIGNAL_EXIT_BASE } from '../exit-codes.ts';
import type { Io } from '../io.ts';
import { news } from '../output/progress.ts';

/** Ctrl-C reaches us by several ways at once: signals that come together are one. */
const SAME_KEYPRESS_MS = 1000;
const SIGINT_NUMBER = 2;

/**
 * The wish that the server ends: a signal, the end of the process that started
 * it, or a call. A second signal ends it at once.
 */
export class StopRequest {
  readonly requested: Promise<void>;
  readonly #resolve: () => void;
  readonly #io: Io;
  readonly #unsubscribe: () => void;
  readonly #onDisconnect = () => this.request();
  #requestedAt: number | undefined;

  constructor(io: Io) {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.requested = promise;
    this.#resolve = resolve;
    this.#io = io;
    this.#unsubscribe = io.onSignal(() => this.#onSignal());
    // The starter's channel, where there is one, closes when the starter was killed.
    process.once('disconnect', this.#onDisconnect);
  }

  request(): void {
    this.#requestedAt ??= Date.now();
    this.#resolve();
  }

  dispose(): void {
    this.#unsubscribe();
    process.off('disconnect', this.#onDisconnect);
  }

  #onSignal(): void {
    const first = this.#requestedAt;
    this.request();
    if (first === undefined) {
      news(this.#io, 'asked to stop; once more to stop at once');
    } else if (Date.now() - first > SAME_KEYPRESS_MS) {
      process.exit(SIGNAL_EXIT_BASE + SIGINT_NUMBER);
    }
  }
}
