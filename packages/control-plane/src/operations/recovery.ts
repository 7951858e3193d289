import { setTimeout as delay } from 'node:timers/promises';
import { TorporError } from '@torpor/protocol';
import type { Logger } from 'pino';
import type { AbandonedLease, OperationLocks } from './locks.ts';
import type { OperationRunner } from './runner.ts';

interface Parts {
  readonly locks: OperationLocks;
  readonly runner: OperationRunner;
  readonly logger: Logger;
  /** How often to check; three times per lease if omitted. */
  readonly intervalMs?: number | undefined;
}

/** Periodically settles the abandoned operations of control planes that died. */
export class OperationRecovery implements AsyncDisposable {
  readonly #parts: Parts;
  readonly #stopping = new AbortController();
  readonly #rounds: Promise<void>;

  constructor(parts: Parts) {
    this.#parts = parts;
    this.#rounds = this.#recoverForever();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping.abort();
    await this.#rounds;
  }

  async #recoverForever(): Promise<void> {
    const { locks, logger, intervalMs = locks.leaseMs / 3 } = this.#parts;
    const { signal } = this.#stopping;
    while (!signal.aborted) {
      try {
        const abandoned = await locks.abandoned();
        await Promise.all(abandoned.map((lease) => this.#recover(lease)));
      } catch (reason) {
        const err = TorporError.from(reason);
        logger.warn({ err }, 'Could not look for abandoned operations; will retry');
      }
      await delay(intervalMs, undefined, { signal }).catch(() => undefined);
    }
  }

  async #recover(lease: AbandonedLease): Promise<void> {
    try {
      await this.#parts.runner.recoverLease(lease);
    } catch (reason) {
      const err = TorporError.from(reason);
      this.#parts.logger.warn(
        { err, resource: lease.resource },
        'Could not settle an abandoned operation; will retry',
      );
    }
  }
}
