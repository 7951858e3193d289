import { setTimeout as delay } from 'node:timers/promises';
import { TorporError } from '@torpor/protocol/basics';
import type * as rest from '@torpor/protocol/rest';
import type { Connection } from './http/connection.ts';
import { withSdkNames } from './http/field-names.ts';

export interface FollowEventsOptions {
  /** The id of the last event that is known. The default is to begin with the next one. */
  readonly after?: string | undefined;
  /** Only events of this type, or of all types of a kind: `sandbox.*`. */
  readonly type?: string | undefined;
  readonly resourceId?: string | undefined;
  /** Whether to wait for more events when all have been read. The default is true. */
  readonly follow?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
}

const FIRST_RETRY_MS = 250;
const LAST_RETRY_MS = 10_000;

/** What happened to the resources of the team. */
export class Events {
  readonly #connection: Connection;

  constructor(connection: Connection) {
    this.#connection = connection;
  }

  /**
   * The events in their order. A connection that is lost is made again, and continues after
   * the last event: none is left out, none comes twice. Throws `not_found` if events that were
   * asked for are no longer kept, and what the first connection fails with.
   */
  async *follow(options: FollowEventsOptions = {}): AsyncGenerator<rest.Event, void> {
    let after = options.after;
    let retryMs = 0;
    for (;;) {
      try {
        const chunks = await this.#open(options, after);
        retryMs = FIRST_RETRY_MS;
        const { messagesOf } = await import('./streams/event-messages.ts');
        for await (const { id, event } of messagesOf(chunks)) {
          if (event !== undefined) yield event;
          after = id;
        }
        if (options.follow === false) return;
      } catch (reason) {
        options.signal?.throwIfAborted();
        if (retryMs === 0 || !isOutage(reason)) throw reason;
      }
      await delay(retryMs, undefined, { signal: options.signal });
      retryMs = Math.min(2 * retryMs, LAST_RETRY_MS);
    }
  }

  #open(options: FollowEventsOptions, after: string | undefined): Promise<AsyncIterable<string>> {
    const { type, resourceId, follow = true, signal } = options;
    const query = { after, type, resource_id: resourceId, follow: String(follow) };
    return withSdkNames(this.#connection.text('GET', '/v1/events', { query, signal }));
  }
}

/** What may be over when it is tried again. */
function isOutage(reason: unknown): boolean {
  return reason instanceof TorporError && reason.httpStatus === 503;
}
