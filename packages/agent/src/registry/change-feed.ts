import { TorporError } from '@torpor/protocol';

/** A consumer that is this far behind must watch again, so that memory stays bounded. */
const MAX_BACKLOG = 10_000;

export type FeedEvent<T> =
  | { readonly kind: 'item'; readonly item: T }
  | { readonly kind: 'synchronised' }
  | { readonly kind: 'keepalive' };

interface Subscriber<T> {
  readonly backlog: T[];
  wake: () => void;
  overrun: boolean;
}

/** Sends every change to any number of consumers, each at its own pace and in order. */
export class ChangeFeed<T> {
  readonly #subscribers = new Set<Subscriber<T>>();

  publish(item: T): void {
    for (const subscriber of this.#subscribers) {
      if (subscriber.backlog.length >= MAX_BACKLOG) subscriber.overrun = true;
      else subscriber.backlog.push(item);
      subscriber.wake();
    }
  }

  /**
   * What `snapshot` returns, then `synchronised`, then every change since, with a keepalive
   * after each `keepAliveMs` of silence. Returns when `signal` aborts. Throws `conflict` when
   * the consumer has fallen too far behind.
   */
  async *watch(
    snapshot: () => readonly T[],
    keepAliveMs: number,
    signal: AbortSignal,
  ): AsyncGenerator<FeedEvent<T>> {
    // Subscribed before anything is awaited after the snapshot: no change is missed or sent twice.
    const subscriber: Subscriber<T> = { backlog: [], wake: () => undefined, overrun: false };
    const known = snapshot();
    this.#subscribers.add(subscriber);
    const stop = () => subscriber.wake();
    signal.addEventListener('abort', stop);
    try {
      for (const item of known) yield { kind: 'item', item };
      yield { kind: 'synchronised' };
      while (!signal.aborted) {
        if (subscriber.overrun) {
          throw new TorporError('conflict', 'The watcher has fallen too far behind.', {
            remedy: 'Watch again: the new call starts with the current state.',
          });
        }
        const item = subscriber.backlog.shift();
        if (item !== undefined) yield { kind: 'item', item };
        else if (!(await wokenWithin(subscriber, keepAliveMs))) yield { kind: 'keepalive' };
      }
    } finally {
      signal.removeEventListener('abort', stop);
      this.#subscribers.delete(subscriber);
    }
  }
}

function wokenWithin(subscriber: { wake: () => void }, timeoutMs: number): Promise<boolean> {
  return new Promise((resolve) => {
    const timer = setTimeout(() => resolve(false), timeoutMs);
    subscriber.wake = () => {
      clearTimeout(timer);
      resolve(true);
    };
  });
}
