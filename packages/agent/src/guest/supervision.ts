import { envdProcess, TorporError } from '@torpor/protocol';
import type { GuestClient } from './guest-client.ts';

/** How long a killed process group may take to exit before the guest counts as hung. */
const KILL_GRACE_MS = 5_000;

/**
 * Supervises one program in the guest: kills its whole process group at its time limit or when
 * it is no longer needed. The time limit is the agent's own, not a deadline of the RPC, so that
 * it applies whether a caller is connected or not; it does not outlive the agent.
 */
export class Supervision implements Disposable {
  readonly #guest: GuestClient;
  readonly #giveUp = new AbortController();
  readonly #timeoutMs: number | undefined;
  readonly #limit: NodeJS.Timeout | undefined;
  #grace: NodeJS.Timeout | undefined;
  #pid: number | undefined;
  #timedOut = false;

  /** `timeoutMs`: no limit if undefined. */
  constructor(guest: GuestClient, timeoutMs: number | undefined) {
    this.#guest = guest;
    this.#timeoutMs = timeoutMs;
    if (timeoutMs !== undefined) {
      this.#limit = setTimeout(() => {
        this.#timedOut = true;
        this.kill();
      }, timeoutMs);
    }
  }

  /** Aborted when waiting for the program has become pointless. */
  get signal(): AbortSignal {
    return this.#giveUp.signal;
  }

  get timedOut(): boolean {
    return this.#timedOut;
  }

  get hasLimit(): boolean {
    return this.#timeoutMs !== undefined;
  }

  started(pid: number): void {
    this.#pid = pid;
    // Its time limit passed before the guest reported its pid.
    if (this.#grace !== undefined) this.#signalGroup();
  }

  /** Kills the process group. Its last output may still arrive, for a few seconds. */
  kill(): void {
    if (this.#grace !== undefined) return;
    this.#grace = setTimeout(() => this.detach(), KILL_GRACE_MS);
    this.#signalGroup();
  }

  /** Stops listening to the program without killing it. */
  detach(): void {
    this.#giveUp.abort(this.timeoutError());
  }

  timeoutError(): TorporError {
    const limit = this.#timeoutMs === undefined ? 'in time' : `within ${this.#timeoutMs / 1000} s`;
    return new TorporError(
      'timeout',
      `The program did not exit ${limit}; its process group was killed.`,
      { remedy: 'Give it more time, or start it in the background.' },
    );
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#limit);
    clearTimeout(this.#grace);
  }

  #signalGroup(): void {
    if (this.#pid === undefined) return;
    const selector = { case: 'pid' as const, value: this.#pid };
    // It may just have exited; and if the guest hangs, the grace period bounds the wait.
    this.#guest.process
      .sendSignal(
        { process: { selector }, signal: envdProcess.Signal.SIGKILL },
        this.#guest.unary(),
      )
      .catch(() => undefined);
  }
}
