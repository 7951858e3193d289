import { constants } from 'node:os';
import { BLOCK_SIZE, type Mapping, ZERO_INDEX } from '@torpor/builds';
import {
  type FileMapping,
  SystemError,
  UFFD_RETRY,
  uffdCopy,
  uffdUnregister,
  uffdZero,
} from '@torpor/linux';
import type { Region } from './handshake.ts';
import { FaultCounters } from './statistics.ts';

/** Blocks that one copy moves at most, 1 MiB: nothing else is served meanwhile. */
export const MAX_COPY_BLOCKS = 256;
/** A fault installs its neighbourhood: the blocks of an aligned window of 64 KiB. */
const WINDOW_BLOCKS = 16;
/** Limit on mapped blocks of the diff files while faults are served; 8 MiB. */
const MAX_MAPPED_BLOCKS = 2048;

const MISSING = 0;
const PRESENT = 1;
/** Discarded by the VMM: reads as zeros from then on, never as the build's content. */
const REMOVED = 2;

export type ServeResult = 'served' | 'retry' | 'unmapped';

/** A page that cannot be served. The VM must be killed: its guest waits for that page. */
export class PageError extends Error {
  override readonly name = 'PageError';
}

export interface GuestMemoryOptions {
  readonly uffd: number;
  readonly regions: readonly Region[];
  readonly mapping: Mapping;
  /** The diff files, in the order of `mapping.builds`. */
  readonly diffs: readonly FileMapping[];
}

/** The RAM of one VM: which blocks are installed, and how the others are. */
export class GuestMemory {
  readonly counters = new FaultCounters();
  readonly #options: GuestMemoryOptions;
  readonly #state: Uint8Array;
  /** Windows that faults installed, in order: pairs of first block and count. */
  #recorded = new Uint32Array(1024);
  #recordedLength = 0;
  #expected: Uint8Array | undefined;
  /** Blocks of the diff files that have been copied since the files' mappings were forgotten. */
  #mapped = 0;

  constructor(options: GuestMemoryOptions) {
    this.#options = options;
    this.#state = new Uint8Array(options.mapping.blockCount);
  }

  /** Installs the page at `address`, and its neighbours that are missing too. Throws {@link PageError}. */
  serveFault(address: number): ServeResult {
    const block = this.#blockAt(address);
    if (block === undefined)
      throw new PageError(`A fault at 0x${address.toString(16)} is outside of RAM.`);
    const late = this.#expected?.[block] === 1 && this.#state[block] === MISSING;
    const result = this.#serveBlock(block);
    if (result === 'served') {
      this.counters.faults++;
      if (late) this.counters.prefetchLate++;
    }
    return result;
  }

  #serveBlock(block: number): ServeResult {
    if (this.#state[block] === REMOVED) return this.#zeroRemoved(block);
    // Present already: another fault installed it, and its wake-up may have come too early.
    if (this.#state[block] === PRESENT) return this.#installAgain(block);
    const run = this.#options.mapping.find(block);
    const first = this.#windowStart(block, run);
    const end = this.#windowEnd(block, run);
    const installed = this.#install(first, end, run);
    if (installed < 0) return installed === UFFD_RETRY ? 'retry' : 'unmapped';
    this.counters.faultBytes += installed * BLOCK_SIZE;
    this.#record(first, end - first);
    return 'served';
  }

  /** The VMM discarded `[start, end)` of its addresses. */
  remove(start: number, end: number): void {
    for (let address = start; address < end; address += BLOCK_SIZE) {
      const block = this.#blockAt(address);
      if (block === undefined) continue;
      this.#state[block] = REMOVED;
      this.counters.removedPages++;
    }
  }

  /**
   * Installs the missing blocks of `[first, first + count)`, at most {@link MAX_COPY_BLOCKS}.
   * Zero blocks are left to faults: they cost the same then, and memory only if used.
   */
  prefetch(first: number, count: number): ServeResult {
    const { mapping } = this.#options;
    const end = Math.min(first + count, this.#state.length);
    // A working set may have been recorded for a machine of another size.
    if (first >= end) return 'served';
    let run = mapping.find(first);
    for (let block = first; block < end; ) {
      if (block === mapping.endOf(run)) run++;
      const runEnd = Math.min(end, mapping.endOf(run), this.#regionEnd(block));
      if (this.#isZero(run)) {
        block = runEnd;
        continue;
      }
      if (this.#state[block] !== MISSING) {
        block++;
        continue;
      }
      let stop = block + 1;
      while (stop < runEnd && this.#state[stop] === MISSING) stop++;
      const installed = this.#install(block, stop, run);
      if (installed < 0) return installed === UFFD_RETRY ? 'retry' : 'unmapped';
      this.counters.prefetchBytes += installed * BLOCK_SIZE;
      block = stop;
    }
    return 'served';
  }

  /** Marks the blocks that prefetching will install, so that faults on them count as late. */
  expect(workingSet: Uint32Array): void {
    const expected = new Uint8Array(this.#state.length);
    for (let at = 0; at + 1 < workingSet.length; at += 2) {
      const first = workingSet[at] as number;
      expected.fill(1, first, first + (workingSet[at + 1] as number));
    }
    this.#expected = expected;
  }

  /** Windows that faults installed, in order: pairs of first block and count. */
  workingSet(): Uint32Array {
    return this.#recorded.slice(0, this.#recordedLength);
  }

  get blockCount(): number {
    return this.#state.length;
  }

  /** Once every block that is not zero is installed: the kernel may resolve all other faults with zeros. */
  unregister(): 'served' | 'unmapped' {
    for (const region of this.#options.regions) {
      const result = uffdUnregister(this.#options.uffd, region.start, region.size);
      if (result < 0) return 'unmapped';
    }
    return 'served';
  }

  #blockAt(address: number): number | undefined {
    for (const region of this.#options.regions) {
      if (address >= region.start && address < region.start + region.size) {
        return Math.floor((address - region.start + region.offset) / BLOCK_SIZE);
      }
    }
    return undefined;
  }

  #regionOf(block: number): Region {
    const offset = block * BLOCK_SIZE;
    for (const region of this.#options.regions) {
      if (offset >= region.offset && offset < region.offset + region.size) return region;
    }
    throw new PageError(`Block ${block} is in no region.`);
  }

  #isZero(run: number): boolean {
    return this.#options.mapping.buildOf(run) === ZERO_INDEX;
  }

  /** The block after the last one of the region of `block`. */
  #regionEnd(block: number): number {
    const { offset, size } = this.#regionOf(block);
    return (offset + size) / BLOCK_SIZE;
  }

  /*
   * A fault installs the missing blocks around it, within its window and region, that are of
   * its kind: zero blocks with zero neighbours, stored ones with stored ones. Start and end are
   * two methods, and the runs are walked from the known one: that allocates nothing.
   */

  /** The first block that a fault on `block`, which is in `run`, installs. */
  #windowStart(block: number, run: number): number {
    const { mapping } = this.#options;
    const regionFirst = this.#regionOf(block).offset / BLOCK_SIZE;
    const low = Math.max(block - (block % WINDOW_BLOCKS), regionFirst);
    const zero = this.#isZero(run);
    let first = block;
    let at = run;
    while (first > low && this.#state[first - 1] === MISSING) {
      if (first === mapping.startOf(at) && this.#isZero(--at) !== zero) break;
      first--;
    }
    return first;
  }

  /** The block after the last one that a fault on `block`, which is in `run`, installs. */
  #windowEnd(block: number, run: number): number {
    const { mapping } = this.#options;
    const windowEnd = block - (block % WINDOW_BLOCKS) + WINDOW_BLOCKS;
    const high = Math.min(windowEnd, this.#regionEnd(block));
    const zero = this.#isZero(run);
    let end = block + 1;
    let at = run;
    while (end < high && this.#state[end] === MISSING) {
      if (end === mapping.endOf(at) && this.#isZero(++at) !== zero) break;
      end++;
    }
    return end;
  }

  /**
   * Installs `[first, end)`, all missing and in one region. `near` is a run that may contain
   * some of it. Returns how many blocks were installed, or a failure.
   */
  #install(first: number, end: number, near: number): number {
    const { mapping } = this.#options;
    for (let block = first; block < end; ) {
      const isNear = block >= mapping.startOf(near) && block < mapping.endOf(near);
      const run = isNear ? near : mapping.find(block);
      const stop = Math.min(end, mapping.endOf(run), block + MAX_COPY_BLOCKS);
      const result = this.#isZero(run) ? this.#zero(block, stop) : this.#copy(run, block, stop);
      if (result < 0) return result;
      block = stop;
    }
    return end - first;
  }

  #zero(first: number, end: number): number {
    const { uffd } = this.#options;
    for (let block = first; block < end; ) {
      const bytes = uffdZero(uffd, this.#addressOf(block), (end - block) * BLOCK_SIZE);
      if (bytes < 0) return bytes;
      block = this.#present(block, bytes);
    }
    this.counters.zeroPages += end - first;
    return end - first;
  }

  /** The kernel copies from the page cache, through the diff file's mapping, into the guest. */
  #copy(run: number, first: number, end: number): number {
    const { diff, position } = this.#stored(run, first, end);
    // One fault maps a whole window (fault-around); larger ranges are cheaper to map at once.
    const isLarge = end - first > WINDOW_BLOCKS;
    if (isLarge) diff.populate(position, (end - first) * BLOCK_SIZE);
    for (let block = first; block < end; ) {
      const source = diff.address + position + (block - first) * BLOCK_SIZE;
      const length = (end - block) * BLOCK_SIZE;
      const bytes = this.#copyFrom(run, source, block, length);
      if (bytes < 0) return bytes;
      block = this.#present(block, bytes);
    }
    if (isLarge) diff.forget(position, (end - first) * BLOCK_SIZE);
    else this.#forgetSometimes(end - first);
    return end - first;
  }

  /** What was copied is not needed again, but what is mapped counts as this process's memory. */
  #forgetSometimes(copied: number): void {
    this.#mapped += copied;
    if (this.#mapped < MAX_MAPPED_BLOCKS) return;
    this.#mapped = 0;
    for (const diff of this.#options.diffs) diff.forget(0, diff.size);
  }

  #copyFrom(run: number, source: number, block: number, length: number): number {
    try {
      return uffdCopy(this.#options.uffd, this.#addressOf(block), source, length);
    } catch (error) {
      if (!(error instanceof SystemError && error.errno === constants.errno.EFAULT)) throw error;
      const what = `The diff file of build ${this.#buildOf(run)} is too short, or its disk fails.`;
      throw new PageError(what, { cause: error });
    }
  }

  #buildOf(run: number): string | undefined {
    const { mapping } = this.#options;
    return mapping.builds[mapping.buildOf(run)];
  }

  /** Where the blocks `[first, end)` of a run are stored. */
  #stored(run: number, first: number, end: number): { diff: FileMapping; position: number } {
    const { mapping, diffs } = this.#options;
    const diff = diffs[mapping.buildOf(run)] as FileMapping;
    const position = (mapping.storageOf(run) + first - mapping.startOf(run)) * BLOCK_SIZE;
    if (position + (end - first) * BLOCK_SIZE > diff.size) {
      throw new PageError(`The diff file of build ${this.#buildOf(run)} is too short.`);
    }
    return { diff, position };
  }

  /** Notes that `bytes` from `block` on are installed; returns the block after them. */
  #present(block: number, bytes: number): number {
    const end = block + bytes / BLOCK_SIZE;
    for (let at = block; at < end; at++) this.#state[at] = PRESENT;
    return end;
  }

  #zeroRemoved(block: number): ServeResult {
    const result = this.#zero(block, block + 1);
    if (result < 0) return result === UFFD_RETRY ? 'retry' : 'unmapped';
    return 'served';
  }

  /** A copy onto a page that is installed fails with EEXIST, and wakes the threads that wait for it. */
  #installAgain(block: number): ServeResult {
    const result = this.#install(block, block + 1, this.#options.mapping.find(block));
    if (result < 0) return result === UFFD_RETRY ? 'retry' : 'unmapped';
    return 'served';
  }

  #addressOf(block: number): number {
    const region = this.#regionOf(block);
    return region.start + block * BLOCK_SIZE - region.offset;
  }

  #record(first: number, count: number): void {
    if (this.#recordedLength === this.#recorded.length) {
      const larger = new Uint32Array(this.#recorded.length * 2);
      larger.set(this.#recorded);
      this.#recorded = larger;
    }
    this.#recorded[this.#recordedLength++] = first;
    this.#recorded[this.#recordedLength++] = count;
  }
}
