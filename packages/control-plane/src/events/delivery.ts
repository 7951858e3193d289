import { setTimeout as delay } from 'node:timers/promises';
import { TorporError } from '@torpor/protocol';
import { type Kysely, sql, type Transaction } from 'kysely';
import type { Logger } from 'pino';
import type { Database } from '../database/schema.ts';
import type { DeliverableEvent } from './outbox.ts';

const BATCH_SIZE = 100;
const LONGEST_TURN_MS = 10_000;
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
 * Delivers the events of the outbox, oldest first. Of several control planes one does so at
 * a time. The mark and what the consumers write are one transaction, so a crash leaves an
 * event either delivered to all or to none. In the same transaction an event gets its
 * position. Because positions are given and committed under one lock, a reader that has read up
 * to a position has seen every event before it.
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
    // Most polls find nothing: they must not write, as taking the turn does.
    if (!(await this.#hasUndelivered())) return 0;
    return this.#parts.db.transaction().execute(async (transaction) => {
      const head = await takeTurn(transaction);
      const appended = await transaction
        .selectFrom('outbox')
        .selectAll()
        .where('delivered_at', 'is', null)
        .orderBy('id')
        .limit(BATCH_SIZE)
        .forUpdate()
        .execute();
      if (appended.length === 0) return 0;
      const events = appended.map((event, index) => ({
        ...event,
        position: String(head + BigInt(index + 1)),
      }));
      for (const consume of this.#parts.consumers) await consume(transaction, events);
      await markDelivered(transaction, events);
      return events.length;
    });
  }

  async #hasUndelivered(): Promise<boolean> {
    const row = await this.#parts.db
      .selectFrom('outbox')
      .select('id')
      .where('delivered_at', 'is', null)
      .limit(1)
      .executeTakeFirst();
    return row !== undefined;
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

/** Lets one control plane deliver at a time; one that hangs loses its turn with its connection. Returns the last position. */
async function takeTurn(transaction: Transaction<Database>): Promise<bigint> {
  const timeout = sql.lit(`${LONGEST_TURN_MS}ms`);
  await sql`set local idle_in_transaction_session_timeout = ${timeout}`.execute(transaction);
  const { head } = await transaction
    .selectFrom('event_stream')
    .select('head')
    .forUpdate()
    .executeTakeFirstOrThrow();
  return BigInt(head);
}

/** Events have the places after the last one, in the order in which they were appended. */
async function markDelivered(
  transaction: Transaction<Database>,
  events: readonly DeliverableEvent[],
): Promise<void> {
  const ids = events.map(({ id }) => id);
  const positions = events.map(({ position }) => position);
  await sql`
    update outbox set delivered_at = clock_timestamp(), position = placed.position
    from unnest(${ids}::bigint[], ${positions}::bigint[]) as placed (id, position)
    where outbox.id = placed.id`.execute(transaction);
  await transaction
    .updateTable('event_stream')
    .set({ head: positions.at(-1) ?? '0' })
    .execute();
}
