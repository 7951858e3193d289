import type { ConnectError } from '@connectrpc/connect';
import { TorporError } from '@torpor/protocol';
import type { ProcessExit } from '../process-exit.ts';
import { type OutputChunk, OutputRing } from './output-ring.ts';

export type OutputEvent =
  | { readonly type: 'data'; readonly chunk: OutputChunk }
  | { readonly type: 'end'; readonly end: ProcessExit };

/** The output that a late subscriber gets first. */
const REPLAY_BYTES = 64 * 1024;
/** A subscriber with more than this in its queue lags: the process has to wait for it. */
const LAGGING_BYTES = 256 * 1024;
/** The overhead added to an event's bytes, so that tiny ones cannot accumulate. */
const EVENT_BYTES = 256;
/** A subscriber that lagged has caught up when its queue is down to this. */
const CAUGHT_UP_BYTES = 64 * 1024;
/**
 * The limit of an event of several joined chunks, as each event has a cost in every layer. A
 * little below a power of two, to which messages are allocated.
 */
const MAX_JOINED_BYTES = 255 * 1024;
/** How long a subscriber that reads nothing may block a process with other followers. */
const STALLED_MS = 30_000;

/**
 * Fans the output of one process out to any number of subscribers. No subscriber loses a byte:
 * while one lags, the source is paused, so the process blocks on its full pipe. Without
 * subscribers nothing is paused and the last 64 KiB are kept.
 */
export class OutputHub {
  readonly #ring = new OutputRing(REPLAY_BYTES);
  readonly #subscribers = new Set<OutputSubscription>();
  readonly #setPaused: (paused: boolean) => void;
  #paused = false;
  #stallTimer: NodeJS.Timeout | undefined;
  #end: ProcessExit | undefined;

  /** @param setPaused Stops and restarts the source of the output. */
  constructor(setPaused: (paused: boolean) => void) {
    this.#setPaused = setPaused;
  }

  get end(): ProcessExit | undefined {
    return this.#end;
  }

  get paused(): boolean {
    return this.#paused;
  }

  push(chunk: OutputChunk): void {
    if (chunk.bytes.length === 0 || this.#end !== undefined) return;
    this.#ring.push(chunk);
    for (const subscriber of this.#subscribers) {
      subscriber.enqueue({ type: 'data', chunk });
    }
    this.#balance();
  }

  finish(end: ProcessExit): void {
    if (this.#end !== undefined) return;
    this.#end = end;
    for (const subscriber of this.#subscribers) {
      subscriber.enqueue({ type: 'end', end });
    }
  }

  /** Follows the output: first what is still stored of it, then all new output. */
  subscribe(): OutputSubscription {
    const subscriber = new OutputSubscription(() => {
      if (subscriber.closed) this.#subscribers.delete(subscriber);
      this.#balance();
    });
    for (const chunk of this.#ring.chunks()) {
      subscriber.enqueue({ type: 'data', chunk });
    }
    if (this.#end === undefined) this.#subscribers.add(subscriber);
    else subscriber.enqueue({ type: 'end', end: this.#end });
    return subscriber;
  }

  #balance(): void {
    const bound = this.#paused ? CAUGHT_UP_BYTES : LAGGING_BYTES;
    const lagging = [...this.#subscribers].some((subscriber) => subscriber.queuedBytes > bound);
    if (lagging === this.#paused) return;
    this.#paused = lagging;
    clearTimeout(this.#stallTimer);
    if (lagging) this.#watchStall();
    this.#setPaused(lagging);
  }

  #watchStall(): void {
    const before = new Map([...this.#subscribers].map((each) => [each, each.takenEvents]));
    this.#stallTimer = setTimeout(() => {
      const stalled = [...this.#subscribers].filter(
        (each) => each.queuedBytes > CAUGHT_UP_BYTES && before.get(each) === each.takenEvents,
      );
      if (stalled.length < this.#subscribers.size) {
        for (const each of stalled) {
          each.fail(
            new TorporError(
              'conflict',
              'the output was not read for too long while other clients follow the process; connect again',
            ).toConnectError(),
          );
        }
      }
      if (this.#paused) this.#watchStall();
    }, STALLED_MS);
    this.#stallTimer.unref();
  }
}

/** One follower of a process's output. To be closed when its client disconnects. */
export class OutputSubscription implements Disposable {
  readonly #changed: () => void;
  #queue: OutputEvent[] = [];
  #queuedBytes = 0;
  #takenEvents = 0;
  #closed = false;
  #failure: ConnectError | undefined;
  #wake: (() => void) | undefined;

  constructor(changed: () => void) {
    this.#changed = changed;
  }

  get queuedBytes(): number {
    return this.#queuedBytes;
  }

  get takenEvents(): number {
    return this.#takenEvents;
  }

  get closed(): boolean {
    return this.#closed;
  }

  enqueue(event: OutputEvent): void {
    this.#queue.push(event);
    if (event.type === 'data') this.#queuedBytes += EVENT_BYTES + event.chunk.bytes.length;
    this.#wake?.();
  }

  /**
   * The next event; `idle` if none came within `idleMs`, `closed` once the
   * subscription is closed. Throws the ConnectError that {@link fail} was given.
   */
  async next(idleMs: number): Promise<OutputEvent | 'idle' | 'closed'> {
    if (this.#queue.length === 0 && !this.#isOver()) await this.#wait(idleMs);
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#closed) return 'closed';
    const event = this.#queue.shift();
    if (event === undefined) return 'idle';
    this.#takenEvents += 1;
    if (event.type !== 'data') return event;
    this.#queuedBytes -= EVENT_BYTES + event.chunk.bytes.length;
    const chunk = this.#joined(event.chunk);
    this.#changed();
    return { type: 'data', chunk };
  }

  /** The chunk joined with the next ones of its kind that fit into one event. */
  #joined({ kind, bytes }: OutputChunk): OutputChunk {
    const pieces = [bytes];
    let size = bytes.length;
    for (let next = this.#queue[0]; next !== undefined; next = this.#queue[0]) {
      if (next.type !== 'data' || next.chunk.kind !== kind) break;
      const { length } = next.chunk.bytes;
      if (size + length > MAX_JOINED_BYTES) break;
      this.#queue.shift();
      this.#queuedBytes -= EVENT_BYTES + length;
      pieces.push(next.chunk.bytes);
      size += length;
    }
    return pieces.length === 1 ? { kind, bytes } : { kind, bytes: Buffer.concat(pieces, size) };
  }

  fail(error: ConnectError): void {
    this.#failure = error;
    this.close();
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#queue = [];
    this.#queuedBytes = 0;
    this.#wake?.();
    this.#changed();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #isOver(): boolean {
    return this.#closed || this.#failure !== undefined;
  }

  #wait(idleMs: number): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        this.#wake = undefined;
        resolve();
      };
      const timer = setTimeout(done, idleMs);
      this.#wake = done;
    });
  }
}
