import { Code, ConnectError } from '@connectrpc/connect';

/**
 * A bounded queue between a producer that cannot wait and one consumer. When it is full, `push`
 * returns false, and the consumer gets what was queued, then the failure.
 */
export class EventQueue<T> {
  readonly #limit: number;
  #items: T[] = [];
  #closed = false;
  #failure: ConnectError | undefined;
  #wake: (() => void) | undefined;

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** Returns false, and closes the queue with `data_loss`, if it is full. */
  push(item: T): boolean {
    if (this.#closed) return false;
    if (this.#items.length >= this.#limit) {
      this.end(
        new ConnectError(
          `more than ${this.#limit} filesystem events were waiting to be fetched: list the directory and watch it again`,
          Code.DataLoss,
        ),
      );
      return false;
    }
    this.#items.push(item);
    this.#wake?.();
    return true;
  }

  end(failure?: ConnectError): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#failure = failure;
    this.#wake?.();
  }

  /**
   * Takes all that is queued, perhaps nothing. Once the queue is closed with a failure and is
   * empty, throws it.
   */
  take(): T[] {
    if (this.#items.length === 0 && this.#failure !== undefined) throw this.#failure;
    const items = this.#items;
    this.#items = [];
    return items;
  }

  /**
   * Waits until there is something to take (`ready`), the queue is closed and empty (`closed`),
   * or the time has passed (`idle`). Rejects with the signal's reason.
   */
  async wait(timeoutMs: number, signal: AbortSignal): Promise<'ready' | 'closed' | 'idle'> {
    signal.throwIfAborted();
    if (this.#items.length === 0 && !this.#closed) {
      const { promise, resolve } = Promise.withResolvers<void>();
      const timer = setTimeout(resolve, timeoutMs);
      this.#wake = resolve;
      const onAbort = () => resolve();
      signal.addEventListener('abort', onAbort);
      await promise;
      signal.removeEventListener('abort', onAbort);
      clearTimeout(timer);
      this.#wake = undefined;
      signal.throwIfAborted();
    }
    if (this.#items.length > 0 || this.#failure !== undefined) return 'ready';
    return this.#closed ? 'closed' : 'idle';
  }
}
