import { setTimeout as delay } from 'node:timers/promises';
import { type hostAgent, TorporError } from '@torpor/protocol';
import type { Logger } from 'pino';
import type { HostConnection } from './connection.ts';
import type { Reconciler } from './reconciler.ts';

export interface WatchTiming {
  /** A stream without a message for this long is considered dead; the agent sends a keep-alive every 15 s. */
  readonly silenceMs: number;
  /** How long the agent may not respond before its sandboxes are `unreachable`. */
  readonly unreachableAfterMs: number;
  readonly reconnectMs: number;
  readonly listIntervalMs: number;
}

const DEFAULT_TIMING: WatchTiming = {
  silenceMs: 40_000,
  unreachableAfterMs: 5_000,
  reconnectMs: 500,
  listIntervalMs: 30_000,
};

const LIST_TIMEOUT_MS = 15_000;

interface Parts {
  readonly host: HostConnection;
  readonly reconciler: Reconciler;
  readonly logger: Logger;
  /** Called when the sandboxes have been marked as unreachable. */
  readonly onUnreachable: () => void;
}

/**
 * Follows one host. The agent's watch stream begins with everything that it knows and then
 * reports every change, so that an exited VMM is in the database as soon as the agent
 * notices it. A periodic list finds what a stream could lose.
 */
export class HostWatch implements AsyncDisposable {
  readonly #parts: Parts;
  readonly #timing: WatchTiming;
  readonly #stopping = new AbortController();
  /** The stream is open and has sent its initial list. */
  #watching = false;
  /** When the first attempt failed since the agent last responded: a start that takes long is no silence. */
  #silentSince: number | undefined;
  /** Whether the stream has had a message since the last loss of it was logged. */
  #wasHeard = true;
  /** When its sandboxes were marked as unreachable; undefined if they have not been since it responded. */
  #marked: number | undefined;
  /** How often they were. */
  #markings = 0;
  readonly #tasks: Promise<unknown>;

  constructor(parts: Parts, timing: Partial<WatchTiming> = {}) {
    this.#parts = parts;
    this.#timing = { ...DEFAULT_TIMING, ...timing };
    this.#tasks = Promise.all([this.#watchForever(), this.#listForever(), this.#noticeSilence()]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping.abort(
      new TorporError('host_unavailable', 'The control plane is shutting down.'),
    );
    await this.#tasks;
    await this.#parts.reconciler[Symbol.asyncDispose]();
  }

  async #watchForever(): Promise<void> {
    const { host, logger } = this.#parts;
    while (!this.#stopping.signal.aborted) {
      try {
        await this.#watch();
      } catch (reason) {
        if (this.#stopping.signal.aborted) return;
        const err = TorporError.from(reason);
        if (err.code !== 'database_unavailable') this.#silentSince ??= Date.now();
        const entry = { host: host.id, err };
        // Once per loss: it may last for days.
        if (this.#wasHeard) logger.warn(entry, 'Lost the connection to the host agent');
        else logger.debug(entry, 'Could not connect to the host agent');
        this.#wasHeard = false;
      }
      await this.#pause(this.#timing.reconnectMs);
    }
  }

  async #watch(): Promise<void> {
    const { host, reconciler } = this.#parts;
    const abort = new AbortController();
    const signal = AbortSignal.any([abort.signal, this.#stopping.signal]);
    const markings = this.#markings;
    const expected = await reconciler.expected();
    const known = new Map<string, hostAgent.SandboxInfo>();
    let lastEvent = Date.now();
    const watchdog = setInterval(() => {
      if (Date.now() - lastEvent > this.#timing.silenceMs) {
        abort.abort(new TorporError('host_unavailable', 'The host agent stopped responding.'));
      }
    }, this.#timing.silenceMs / 4);
    try {
      const messages = host.stream((client) => client.watchSandboxes({}, { signal }));
      for await (const { event } of messages) {
        lastEvent = Date.now();
        this.#heard();
        if (event.case === 'sandbox' && this.#watching) {
          await this.#attempt(reconciler.record(event.value));
        } else if (event.case === 'sandbox') {
          known.set(event.value.sandboxId, event.value);
        } else if (event.case === 'synchronised') {
          this.#watching = true;
          await this.#attempt(reconciler.reconcile(expected, known));
          // Marked while this stream was being opened: they are not what was expected.
          if (this.#markings !== markings) await this.#attempt(this.#list());
        }
      }
    } finally {
      this.#watching = false;
      clearInterval(watchdog);
    }
  }

  #heard(): void {
    this.#silentSince = undefined;
    this.#wasHeard = true;
    this.#marked = undefined;
  }

  async #listForever(): Promise<void> {
    // Jitter: the hosts of a control plane are not all listed at once.
    while (await this.#pause(this.#timing.listIntervalMs * (0.5 + Math.random()))) {
      await this.#attempt(this.#list());
    }
  }

  async #list(): Promise<void> {
    const { host, reconciler } = this.#parts;
    const expected = await reconciler.expected();
    const { signal } = this.#stopping;
    const { sandboxes } = await host.call((client) =>
      client.listSandboxes({}, { timeoutMs: LIST_TIMEOUT_MS, signal }),
    );
    this.#heard();
    const known = new Map(sandboxes.map((info) => [info.sandboxId, info]));
    await reconciler.reconcile(expected, known);
  }

  async #noticeSilence(): Promise<void> {
    while (await this.#pause(this.#timing.unreachableAfterMs / 5)) {
      const since = this.#silentSince;
      if (since === undefined || Date.now() - since < this.#timing.unreachableAfterMs) continue;
      // Again from time to time: an operation that had locked a sandbox may have left it.
      const isMarked = this.#marked !== undefined;
      if (isMarked && Date.now() - (this.#marked ?? 0) < this.#timing.listIntervalMs) continue;
      await this.#attempt(this.#markUnreachable(isMarked));
    }
  }

  async #markUnreachable(isMarked: boolean): Promise<void> {
    const { host, reconciler, logger, onUnreachable } = this.#parts;
    await reconciler.markUnreachable();
    this.#markings += 1;
    // It has responded meanwhile.
    if (this.#silentSince === undefined) return this.#list();
    this.#marked = Date.now();
    if (!isMarked) {
      const message = 'Host agent did not respond; its sandboxes were marked as unreachable';
      logger.error({ host: host.id }, message);
    }
    onUnreachable();
  }

  /** Waits, and returns whether to continue. */
  async #pause(ms: number): Promise<boolean> {
    await delay(ms, undefined, { signal: this.#stopping.signal }).catch(() => undefined);
    return !this.#stopping.signal.aborted;
  }

  /** A temporary failure of the database or the agent must not stop the watch. */
  async #attempt(step: Promise<void>): Promise<void> {
    try {
      await step;
    } catch (reason) {
      if (this.#stopping.signal.aborted) return;
      const { host, logger } = this.#parts;
      const err = TorporError.from(reason);
      logger.error({ host: host.id, err }, 'Reconciliation step failed; will retry');
    }
  }
}
