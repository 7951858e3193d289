import type { Sandbox } from '@torpor/sdk';
import { TorporError } from '@torpor/sdk/basics';
import { exitCodeOfSignal } from '../exit-codes.ts';
import { type Io, type OutputStream, TerminalClosed, write } from '../io.ts';
import type { TerminationSignal } from '../termination-signals.ts';

/** At the third signal we stop waiting for the program. */
const SIGNALS_UNTIL_ABANDONED = 3;
/** A guest that has not accepted a signal by then hangs, and the program with it. */
const DELIVERY_TIMEOUT_MS = 10_000;

/**
 * Passes our termination signals on to a program in a sandbox. The first is passed on, the
 * second kills the program, and after the third, or one that the guest does not accept, it is
 * no longer waited for. Signals before the program has started are queued.
 */
export class SignalRelay implements Disposable {
  /** Resolves when the program must no longer be waited for. */
  readonly abandoned: Promise<void>;
  readonly #sandbox: Sandbox;
  readonly #passOn: (signal: TerminationSignal) => TerminationSignal;
  readonly #signals: TerminationSignal[] = [];
  readonly #abandon: () => void;
  readonly #unsubscribe: () => void;
  #pid: number | undefined;
  /** Our output has shown that the terminal was closed; its SIGHUP may still follow. */
  #expectsHangUp = false;

  /** `passOn` maps a signal to us to one for the program. */
  constructor(
    io: Io,
    sandbox: Sandbox,
    passOn: (signal: TerminationSignal) => TerminationSignal = (signal) => signal,
  ) {
    this.#sandbox = sandbox;
    this.#passOn = passOn;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.abandoned = promise;
    this.#abandon = resolve;
    this.#unsubscribe = io.onSignal((signal) => this.#onSignal(signal));
  }

  /** Must be called when the program has started. */
  started(pid: number): void {
    this.#pid = pid;
    const [early] = this.#signals;
    if (early !== undefined) this.#deliver(pid, this.#passOn(early));
  }

  /**
   * The exit status: the program's if it received only signals that we received too, otherwise
   * that of our first signal. `status` is undefined if the program was not waited for.
   */
  exitCode(status: number | undefined): number | undefined {
    const [first] = this.#signals;
    if (first === undefined) return status;
    const isItsOwn = this.#signals.length === 1 && this.#passOn(first) === first;
    return isItsOwn && status !== undefined ? status : exitCodeOfSignal(first);
  }

  /**
   * Writes output of the program. A closed terminal counts as a SIGHUP, also for background
   * jobs, and accepts no more output. Throws as {@link write} does.
   */
  async print(stream: OutputStream, data: Uint8Array): Promise<void> {
    try {
      await write(stream, data);
    } catch (error) {
      if (!(error instanceof TerminalClosed)) throw error;
      if (this.#signals.includes('SIGHUP')) return;
      this.#onSignal('SIGHUP');
      this.#expectsHangUp = true;
    }
  }

  [Symbol.dispose](): void {
    this.#unsubscribe();
  }

  #onSignal(signal: TerminationSignal): void {
    if (signal === 'SIGHUP' && this.#expectsHangUp) {
      this.#expectsHangUp = false;
      return;
    }
    const count = this.#signals.push(signal);
    const isStarted = this.#pid !== undefined;
    if (count >= (isStarted ? SIGNALS_UNTIL_ABANDONED : SIGNALS_UNTIL_ABANDONED - 1)) {
      this.#abandon();
    } else if (this.#pid !== undefined) {
      this.#deliver(this.#pid, count === 1 ? this.#passOn(signal) : 'SIGKILL');
    }
  }

  /** Not through the stream, where it would be queued after input that the program does not read. */
  #deliver(pid: number, name: TerminationSignal | 'SIGKILL'): void {
    const signal = AbortSignal.timeout(DELIVERY_TIMEOUT_MS);
    this.#sandbox.processes.kill(pid, { name, signal }).catch((reason: unknown) => {
      // It may have exited by now, which the stream reports. After other errors the guest does not
      // respond.
      if (TorporError.from(reason).code !== 'not_found') this.#abandon();
    });
  }
}
