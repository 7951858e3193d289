/**
 * Sends what is queued for webhooks. A delivery is a row until its receiver has accepted
 * it, so it survives receivers that are down and control planes that die: it is sent at
 * least once. Of one webhook and resource only the oldest pending delivery is sent, so a
 * receiver gets the events of a sandbox in their order. Who sends one holds it for a while
 * ({@link CLAIM_MS}); if the sender dies, another one sends it then.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { TorporError } from '@torpor/protocol';
import { type Kysely, type Selectable, sql } from 'kysely';
import type { Logger } from 'pino';
import { isOlder, removeRows } from '../database/remove-rows.ts';
import type { Database, WebhookDeliveryTable } from '../database/schema.ts';
import type { Attempt, WebhookSender } from './sender.ts';

type Delivery = Pick<
  Selectable<WebhookDeliveryTable>,
  'id' | 'webhook_id' | 'event' | 'attempts' | 'resource'
>;

const MAX_IN_FLIGHT = 20;
const MAX_IN_FLIGHT_PER_WEBHOOK = 5;
/** Longer than a request may take. */
export const CLAIM_MS = 60_000;
const KEEP_FINISHED_MS = 7 * 24 * 3_600_000;

export interface DispatcherTiming {
  readonly pollIntervalMs: number;
  /** Before the second attempt; each later one waits twice as long. */
  readonly firstRetryMs: number;
  readonly longestRetryMs: number;
  /** Then the delivery is dead. With the other defaults it is tried for about a day. */
  readonly maxAttempts: number;
}

const DEFAULT_TIMING: DispatcherTiming = {
  pollIntervalMs: 1_000,
  firstRetryMs: 5_000,
  longestRetryMs: 3 * 3_600_000,
  maxAttempts: 18,
};

interface Parts {
  readonly db: Kysely<Database>;
  readonly sender: WebhookSender;
  readonly logger: Logger;
}

export class WebhookDispatcher implements AsyncDisposable {
  readonly #parts: Parts;
  readonly #timing: DispatcherTiming;
  readonly #stopping = new AbortController();
  readonly #inFlight = new Map<Delivery, Promise<void>>();
  #rounds: Promise<void> = Promise.resolve();

  constructor(parts: Parts, timing: Partial<DispatcherTiming> = {}) {
    this.#parts = parts;
    this.#timing = { ...DEFAULT_TIMING, ...timing };
  }

  start(): void {
    this.#rounds = this.#run();
  }

  /** Breaks requests off that are under way; they are made again. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping.abort();
    await this.#rounds;
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopping;
    while (!signal.aborted) {
      let claimed = 0;
      try {
        claimed = await this.#sendDue();
      } catch (reason) {
        const err = TorporError.from(reason);
        this.#parts.logger.warn({ err }, 'Could not send webhooks; will retry');
      }
      if (claimed > 0 && this.#inFlight.size < MAX_IN_FLIGHT) continue;
      const pause = delay(this.#timing.pollIntervalMs, undefined, { signal, ref: false });
      await Promise.race([pause, ...this.#inFlight.values()]).catch(() => undefined);
    }
    await Promise.all(this.#inFlight.values());
  }

  /** Starts to send as many as may be in flight. Returns how many. */
  async #sendDue(): Promise<number> {
    const room = MAX_IN_FLIGHT - this.#inFlight.size;
    if (room === 0) return 0;
    const claimed = await this.#claim(room);
    for (const delivery of claimed) {
      const sending = this.#deliver(delivery)
        .catch((reason: unknown) => {
          const err = TorporError.from(reason);
          this.#parts.logger.warn({ err }, 'Could not record a webhook delivery; it is sent again');
        })
        .finally(() => this.#inFlight.delete(delivery));
      this.#inFlight.set(delivery, sending);
    }
    return claimed.length;
  }

  /**
   * Those that are due: at most one of each webhook and resource, and few of each webhook, so
   * that a receiver that does not respond leaves room for the others. Of a webhook they are
   * found in the order of an index, whatever is pending behind them.
   */
  async #claim(limit: number): Promise<Delivery[]> {
    const busy = this.#saturatedWebhooks();
    const { rows } = await sql<Delivery>`
      with due as (
        select first.id from webhooks, lateral (
          select due.id, due.next_attempt_at from webhook_deliveries due
          where due.webhook_id = webhooks.id and due.state = 'pending'
            and due.next_attempt_at <= now() and not exists (
              select from webhook_deliveries older
              where older.webhook_id = due.webhook_id and older.resource = due.resource
                and older.state = 'pending' and older.id < due.id)
          order by due.next_attempt_at limit ${MAX_IN_FLIGHT_PER_WEBHOOK}
        ) as first
        where webhooks.enabled and webhooks.id <> all(${busy}::text[])
        order by first.next_attempt_at limit ${limit}
      ), claimed as (
        select id from webhook_deliveries
        where id in (select id from due) and state = 'pending' and next_attempt_at <= now()
        for update skip locked
      )
      update webhook_deliveries as mine
      set next_attempt_at = now() + ${`${CLAIM_MS} milliseconds`}::interval, attempts = attempts + 1
      from claimed where mine.id = claimed.id
      returning mine.id, mine.webhook_id, mine.event, mine.attempts, mine.resource`.execute(
      this.#parts.db,
    );
    return rows;
  }

  #saturatedWebhooks(): string[] {
    const counts = new Map<string, number>();
    for (const { webhook_id: id } of this.#inFlight.keys()) {
      counts.set(id, (counts.get(id) ?? 0) + 1);
    }
    return [...counts].filter(([, count]) => count >= MAX_IN_FLIGHT_PER_WEBHOOK).map(([id]) => id);
  }

  async #deliver(delivery: Delivery): Promise<void> {
    const { signal } = this.#stopping;
    const attempt = await this.#parts.sender.send(delivery.webhook_id, delivery.event, signal);
    if (signal.aborted && !attempt.accepted) await this.#giveBack(delivery);
    else await this.#record(delivery, attempt);
  }

  /** Lets another control plane, or the next start, send it now. */
  async #giveBack({ id }: Delivery): Promise<void> {
    await this.#parts.db
      .updateTable('webhook_deliveries')
      .set(({ eb }) => ({ next_attempt_at: new Date(), attempts: eb('attempts', '-', 1) }))
      .where('id', '=', id)
      .where('state', '=', 'pending')
      .execute();
  }

  async #record(delivery: Delivery, attempt: Attempt): Promise<void> {
    const { logger } = this.#parts;
    const { id, webhook_id: webhook, attempts } = delivery;
    const fields = { webhook, delivery: id, attempts, ...attempt };
    if (attempt.accepted) {
      await this.#finish(delivery, 'delivered', attempt);
      logger.debug(fields, 'Webhook sent');
    } else if (attempts >= this.#timing.maxAttempts) {
      await this.#finish(delivery, 'dead', attempt);
      logger.warn(fields, 'Webhook delivery given up');
    } else {
      await this.#postpone(delivery, attempt);
      logger.debug(fields, 'Webhook not accepted; will retry');
    }
  }

  #finish({ id }: Delivery, state: 'delivered' | 'dead', attempt: Attempt): Promise<unknown> {
    return this.#parts.db
      .updateTable('webhook_deliveries')
      .set({ state, ...resultOf(attempt), finished_at: new Date() })
      .where('id', '=', id)
      .where('state', '=', 'pending')
      .execute();
  }

  /** What waits behind it is not due before it is, and so is not looked at in vain until then. */
  async #postpone(delivery: Delivery, attempt: Attempt): Promise<void> {
    const { db } = this.#parts;
    const { id, webhook_id: webhook, resource, attempts } = delivery;
    const dueAt = new Date(Date.now() + this.#retryDelay(attempts, attempt));
    await db
      .updateTable('webhook_deliveries')
      .set({ ...resultOf(attempt), next_attempt_at: dueAt })
      .where('id', '=', id)
      .where('state', '=', 'pending')
      .execute();
    await db
      .updateTable('webhook_deliveries')
      .set({ next_attempt_at: dueAt })
      .where('webhook_id', '=', webhook)
      .where('resource', '=', resource)
      .where('id', '>', id)
      .where('state', '=', 'pending')
      .where('next_attempt_at', '<', dueAt)
      .execute();
  }

  /**
   * Exponential, or longer if the receiver asks for it, with a fifth of it by chance, so that a
   * receiver that returns is not met by all at once.
   */
  #retryDelay(attempts: number, { retryAfterMs = 0 }: Attempt): number {
    const { firstRetryMs, longestRetryMs } = this.#timing;
    const backOff = firstRetryMs * 2 ** (attempts - 1);
    const base = Math.min(Math.max(backOff, retryAfterMs), longestRetryMs);
    return base * (0.9 + 0.2 * Math.random());
  }
}

function resultOf({ status, error }: Attempt) {
  return { last_status: status ?? null, last_error: error ?? null };
}

/** Removes deliveries that were accepted or given up a week ago. */
export async function removeFinishedDeliveries(db: Kysely<Database>): Promise<void> {
  const isExpired = sql<boolean>`state <> 'pending' and ${isOlder('finished_at', KEEP_FINISHED_MS)}`;
  await removeRows(db, 'webhook_deliveries', isExpired);
}
