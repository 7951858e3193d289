import { closeFd, UFFD_EVENT, UFFD_GONE, UffdEvents } from '@torpor/linux';
import { GuestMemory, type GuestMemoryOptions, PageError } from './guest-memory.ts';
import { type Piece, planAll, planPrefetch } from './prefetch-plan.ts';

/** After EAGAIN: the thread of the VMM that changes its memory needs the processor to finish. */
const RETRY_MS = 0.02;

/**
 * `memory-unmapped`: the VMM's memory no longer exists. `materialised`: all of RAM is
 * installed, and the VMM no longer needs the pager.
 */
export type ServiceResult = 'serving' | 'memory-unmapped' | 'materialised';

/**
 * Serves the pages of one VMM through its userfaultfd, which it owns. Every method
 * returns at once, and serving a fault allocates nothing.
 */
export class PageService implements Disposable {
  readonly uffd: number;
  readonly memory: GuestMemory;
  readonly #events = new UffdEvents();
  /** Faults that could not be served yet because RAM was changing. */
  #deferred: number[] = [];
  /** Those that are served now; a field, so that a fault allocates nothing. */
  #faults: number[] = [];
  #pieces: Piece[] = [];
  #materialising = false;

  constructor(options: GuestMemoryOptions) {
    this.uffd = options.uffd;
    this.memory = new GuestMemory(options);
  }

  /** How long the loop may wait before it calls {@link step}; undefined: until the userfaultfd has events. */
  get timeoutMs(): number | undefined {
    if (this.#deferred.length > 0) return RETRY_MS;
    return this.#pieces.length > 0 ? 0 : undefined;
  }

  /** Installs the recorded windows (pairs of first block and count) before the guest touches them. */
  prefetch(workingSet: Uint32Array): void {
    this.memory.expect(workingSet);
    this.#pieces.push(...planPrefetch(workingSet));
  }

  /** Installs all that is missing. */
  materialise(): void {
    this.#materialising = true;
    this.#pieces.push(...planAll(this.memory.blockCount));
  }

  /** Does what can be done now; `hasEvents` says whether the userfaultfd has any. Throws PageError or SystemError. */
  step(hasEvents: boolean): ServiceResult {
    if (!hasEvents && this.#pieces.length === 0 && this.#deferred.length === 0) return 'serving';
    const faults = this.#deferred;
    this.#deferred = this.#faults;
    this.#deferred.length = 0;
    this.#faults = faults;
    const began = performance.now();
    // Events first, all of them: while one waits, nothing can be installed.
    if (!this.#readEvents(faults)) return 'memory-unmapped';
    for (const address of faults) {
      const result = this.memory.serveFault(address);
      if (result === 'unmapped') return 'memory-unmapped';
      if (result === 'retry') this.#deferred.push(address);
      else this.memory.counters.addLatency((performance.now() - began) * 1000);
    }
    return faults.length === 0 ? this.#prefetchNext() : 'serving';
  }

  #readEvents(faults: number[]): boolean {
    const count = this.#events.read(this.uffd);
    if (count === UFFD_GONE) return false;
    for (let index = 0; index < count; index++) {
      const kind = this.#events.kind(index);
      if (kind === UFFD_EVENT.PAGEFAULT) faults.push(this.#events.faultAddress(index));
      else if (kind === UFFD_EVENT.REMOVE || kind === UFFD_EVENT.UNMAP) {
        this.memory.remove(this.#events.rangeStart(index), this.#events.rangeEnd(index));
      } else throw new PageError(`The VMM sent an event of unknown kind ${kind}.`);
    }
    return true;
  }

  /** One piece at a time, so that a fault never waits for more than that. */
  #prefetchNext(): ServiceResult {
    const piece = this.#pieces[0];
    if (piece === undefined) return 'serving';
    const result = this.memory.prefetch(piece.first, piece.count);
    if (result === 'unmapped') return 'memory-unmapped';
    if (result === 'retry') return 'serving';
    this.#pieces.shift();
    if (this.#pieces.length > 0 || !this.#materialising) return 'serving';
    return this.memory.unregister() === 'unmapped' ? 'memory-unmapped' : 'materialised';
  }

  [Symbol.dispose](): void {
    closeFd(this.uffd);
  }
}
