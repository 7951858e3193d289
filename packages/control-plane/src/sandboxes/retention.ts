import { setTimeout as delay } from 'node:timers/promises';
import { TorporError } from '@torpor/protocol';
import type { Kysely } from 'kysely';
import type { Logger } from 'pino';
import type { Database } from '../database/schema.ts';
import { removeDelivered } from '../events/outbox.ts';
import type { SandboxRepository } from './repository.ts';

export interface RetentionOptions {
  /** How long a destroyed sandbox stays listed. */
  readonly keepStoppedMs: number;
  readonly intervalMs: number;
}

const DAY_MS = 24 * 60 * 60_000;

export const DEFAULT_RETENTION: RetentionOptions = {
  keepStoppedMs: 7 * DAY_MS,
  intervalMs: 60 * 60_000,
};

/** Delivered events are kept for inspection. */
const KEEP_EVENTS_MS = 7 * DAY_MS;

interface Parts {
  readonly db: Kysely<Database>;
  readonly sandboxes: SandboxRepository;
  readonly logger: Logger;
}

/** Removes the rows of sandboxes that were destroyed long ago, and old events. The audit log keeps its entries. */
export class Retention implements AsyncDisposable {
  readonly #parts: Parts;
  readonly #options: RetentionOptions;
  readonly #stopping = new AbortController();
  readonly #rounds: Promise<void>;

  constructor(parts: Parts, options: Partial<RetentionOptions> = {}) {
    this.#parts = parts;
    this.#options = { ...DEFAULT_RETENTION, ...options };
    this.#rounds = this.#run();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping.abort();
    await this.#rounds;
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopping;
    const { keepStoppedMs, intervalMs } = this.#options;
    while (!signal.aborted) {
      try {
        const removed = await this.#parts.sandboxes.removeStopped(keepStoppedMs);
        if (removed > 0)
          this.#parts.logger.info({ removed }, 'Rows of destroyed sandboxes removed');
        await removeDelivered(this.#parts.db, KEEP_EVENTS_MS);
      } catch (reason) {
        const err = TorporError.from(reason);
        this.#parts.logger.warn({ err }, 'Could not remove old rows; will retry');
      }
      await delay(intervalMs, undefined, { signal, ref: false }).catch(() => undefined);
    }
  }
}
