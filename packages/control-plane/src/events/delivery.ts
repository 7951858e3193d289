import { setTimeout as delay } from 'node:timers/promises';
import { TorporError } from '@torpor/protocol';
import type { Kysely, Transaction } from 'kysely';
import type { Logger } from 'pino';
import type { Database } from '../database/schema.ts';
import type { DeliverableEvent } from './outbox.ts';

const BATCH_SIZE = 100;
/** For events whose control plane died before it delivered them. */
const POLL_INTERVAL_MS = 1_000;

/** Takes events in the transaction in which they are marked as delivered; idempotent. */
export type EventConsumer = (
  transaction: Transaction<Database>,
  events: readonly DeliverableEvent[],
) => Promise<void>;

interface Parts {
  readonly db: Kysely<Database>;
  readonly consumers: readonly EventConsumer[];
  readonly logger: Logger;
}

/**
 * Delivers the events of the outbox, oldest first. Several control planes may do so
 * concurrently: each takes rows that no other has locked. The mark and what the consumers write
 * are one transaction, so a crash leaves an event either delivered to all or to none.
 */
export class OutboxDelivery implements AsyncDisposable {
  readonly #parts: Parts;
  readonly #stopping = new AbortController();
  #rounds: Promise<void> = Promise.resolve();
  #wake: () => void = () => undefined;
  #woken = false;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  start(): void {
    this.#rounds = this.#deliverForever();
  }

  /** Called when there are new events. */
  wake(): void {
    this.#woken = true;
    this.#wake();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping.abort();
    this.wake();
    await this.#rounds;
  }

  async #deliverForever(): Promise<void> {
    const { signal } = this.#stopping;
    while (!signal.aborted) {
      this.#woken = false;
      try {
        while ((await this.#deliverBatch()) === BATCH_SIZE && !signal.aborted);
      } catch (reason) {
        const err = TorporError.from(reason);
        this.#parts.logger.warn({ err }, 'Could not deliver events; will retry');
        await delay(POLL_INTERVAL_MS, undefined, { signal }).catch(() => undefined);
      }
      await this.#idle();
    }
    // The events of the last operations; any others are left to the next control plane.
    await this.#deliverBatch().catch(() => undefined);
  }

  async #deliverBatch(): Promise<number> {
    return this.#parts.db.transaction().execute(async (transaction) => {
      const events = await transaction
        .selectFrom('outbox')
        .selectAll()
        .where('delivered_at', 'is', null)
        .orderBy('id')
        .limit(BATCH_SIZE)
        .forUpdate()
        .skipLocked()
        .execute();
      if (events.length === 0) return 0;
      for (const consume of this.#parts.consumers) await consume(transaction, events);
      await transaction
        .updateTable('outbox')
        .set({ delivered_at: new Date() })
        .where(
          'id',
          'in',
          events.map(({ id }) => id),
        )
        .execute();
      return events.length;
    });
  }

  /** Waits until there are new events, or until the next poll for those of other control planes. */
  async #idle(): Promise<void> {
    if (this.#woken) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#wake = resolve;
    const timer = setTimeout(resolve, POLL_INTERVAL_MS);
    timer.unref();
    await promise;
    clearTimeout(timer);
    this.#wake = () => undefined;
  }
}
