import { TorporError } from '@torpor/protocol';
import { type Kysely, sql } from 'kysely';
import type { Logger } from 'pino';
import type { Database } from '../database/schema.ts';
import type { DeliverableEvent } from './outbox.ts';
import { hasTeamScope } from './scope.ts';

export interface EventFilter {
  readonly teamId: string;
  /** Whether to include what is for admins only. */
  readonly adminScope: boolean;
  /** The whole type, or a kind of resource and `.*`. */
  readonly type?: string | undefined;
  readonly resource?: string | undefined;
}

export interface FollowOptions extends EventFilter {
  /** The position after which to begin; only new events if undefined. */
  readonly after?: bigint | undefined;
  /** Whether to wait for more when all have been read. */
  readonly follow: boolean;
  readonly signal: AbortSignal;
}

/** What a follower gets. `position`: it has seen all up to there; first, and now and then while there is nothing. */
export type FeedItem =
  | { readonly event: DeliverableEvent }
  | { readonly gap: { readonly oldest: bigint } }
  | { readonly position: bigint };

/** How late an event may be noticed. */
const POLL_INTERVAL_MS = 500;
const IDLE_INTERVAL_MS = 15_000;
const PAGE_SIZE = 100;

interface Waiter {
  readonly after: bigint;
  readonly resolve: () => void;
}

/**
 * The delivered events as a stream that can be resumed. Followers read the database by
 * themselves, each as fast as it can; that there is something new is asked for once for all.
 */
export class EventFeed {
  readonly #db: Kysely<Database>;
  readonly #logger: Logger;
  readonly #closing = new AbortController();
  readonly #waiters = new Set<Waiter>();
  #timer: NodeJS.Timeout | undefined;

  constructor(db: Kysely<Database>, logger: Logger) {
    this.#db = db;
    this.#logger = logger;
  }

  /** Completes all streams. */
  close(): void {
    this.#closing.abort();
  }

  /**
   * The events that the options let through, in order. The stream completes when the signal is
   * aborted or the feed is closed. Throws `invalid_request` for a position that no event has had.
   */
  async follow(options: FollowOptions): Promise<AsyncGenerator<FeedItem, void>> {
    const last = await this.#last();
    const after = options.after ?? last;
    if (after > last) {
      throw new TorporError('invalid_request', `There has been no event ${after} yet.`, {
        remedy: `The last one is ${last}.`,
      });
    }
    return this.#items(options, after, last);
  }

  async *#items(
    options: FollowOptions,
    after: bigint,
    newest: bigint,
  ): AsyncGenerator<FeedItem, void> {
    const signal = AbortSignal.any([options.signal, this.#closing.signal]);
    const oldest = await this.#oldest(newest);
    // Who begins with 0 asks for what there is.
    if (after > 0n && after + 1n < oldest) yield { gap: { oldest } };
    yield { position: after };
    let position = after;
    let last = newest;
    while (!signal.aborted) {
      const events = await this.#read(options, position);
      for (const event of events) {
        if (signal.aborted) return;
        yield { event };
        position = BigInt(event.position);
      }
      if (events.length < PAGE_SIZE) {
        if (!options.follow) return;
        // This was read after `last`: nothing up to there is for this reader.
        if (last > position) position = last;
        if (!(await this.#waitForNewer(position, signal))) yield { position };
      }
      last = await this.#last();
    }
  }

  #read(
    { teamId, adminScope, type, resource }: EventFilter,
    after: bigint,
  ): Promise<DeliverableEvent[]> {
    let query = this.#db
      .selectFrom('outbox')
      .selectAll()
      .where('team_id', '=', teamId)
      .where('position', '>', String(after))
      .$narrowType<{ position: string }>();
    if (!adminScope) query = query.where(hasTeamScope());
    if (resource !== undefined) query = query.where('resource', '=', resource);
    if (type?.endsWith('.*')) {
      query = query.where(sql<boolean>`starts_with(kind, ${type.slice(0, -1)})`);
    } else if (type !== undefined) {
      query = query.where(sql<boolean>`kind = ${type}`);
    }
    return query.orderBy('position').limit(PAGE_SIZE).execute();
  }

  /** The position of the last event; 0 before the first. */
  async #last(): Promise<bigint> {
    const { head } = await this.#db
      .selectFrom('event_stream')
      .select('head')
      .executeTakeFirstOrThrow();
    return BigInt(head);
  }

  /** The position of the oldest event that is kept, or will have been. */
  async #oldest(last: bigint): Promise<bigint> {
    const { oldest } = await this.#db
      .selectFrom('outbox')
      .select(({ fn }) => fn.min('position').as('oldest'))
      .executeTakeFirstOrThrow();
    return oldest === null ? last + 1n : BigInt(oldest);
  }

  /** Whether there is an event after `position` before it is time to say that there is none. */
  async #waitForNewer(position: bigint, signal: AbortSignal): Promise<boolean> {
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const waiter = { after: position, resolve: () => resolve(true) };
    const giveUp = () => resolve(false);
    const timer = setTimeout(giveUp, IDLE_INTERVAL_MS);
    signal.addEventListener('abort', giveUp, { once: true });
    this.#waiters.add(waiter);
    this.#schedulePoll();
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
      signal.removeEventListener('abort', giveUp);
      this.#waiters.delete(waiter);
    }
  }

  #schedulePoll(): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      void this.#poll();
    }, POLL_INTERVAL_MS);
  }

  async #poll(): Promise<void> {
    try {
      const last = await this.#last();
      for (const { after, resolve } of this.#waiters) if (after < last) resolve();
    } catch (reason) {
      this.#logger.warn({ err: TorporError.from(reason) }, 'Could not look for events; will retry');
    }
    if (this.#waiters.size > 0 && !this.#closing.signal.aborted) this.#schedulePoll();
  }
}
