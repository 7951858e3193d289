import { ZERO_BUILD } from '../uuid.ts';

/** Guest RAM, diff files and mappings are all counted in blocks of this many bytes. */
export const BLOCK_SIZE = 4096;

/** Marks a run whose blocks are zero, in place of an index into {@link Mapping.builds}. */
export const ZERO_INDEX = 0xffff_ffff;

/** A run of blocks, as a reader sees it. Offsets and lengths are in blocks. */
export interface Run {
  readonly start: number;
  readonly length: number;
  /** {@link ZERO_BUILD} for zero blocks. */
  readonly buildId: string;
  /** Where the run begins in the build's diff file; 0 for zero blocks. */
  readonly storage: number;
}

/**
 * Where every block of a guest's RAM is: a sorted list of runs without gap or overlap. It is
 * stored as parallel typed arrays, so that the page-fault handler finds a block by binary
 * search without allocating. Immutable.
 */
export class Mapping {
  /** Blocks of RAM that the runs cover. */
  readonly blockCount: number;
  /** The builds that runs refer to by index. None is {@link ZERO_BUILD}. */
  readonly builds: readonly string[];
  readonly #starts: Uint32Array;
  readonly #builds: Uint32Array;
  readonly #storage: Uint32Array;

  /** For {@link MappingBuilder}, which establishes the invariants of the other methods. */
  constructor(
    blockCount: number,
    builds: readonly string[],
    starts: Uint32Array,
    buildIndices: Uint32Array,
    storage: Uint32Array,
  ) {
    this.blockCount = blockCount;
    this.builds = builds;
    this.#starts = starts;
    this.#builds = buildIndices;
    this.#storage = storage;
  }

  get runCount(): number {
    return this.#starts.length;
  }

  /** Index of the run that contains a block, `0 ≤ block < blockCount`: O(log runs), no allocation. */
  find(block: number): number {
    if (!(block >= 0 && block < this.blockCount)) {
      throw new RangeError(`Block ${block} is outside of [0, ${this.blockCount}).`);
    }
    const starts = this.#starts;
    let low = 0;
    let high = starts.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >>> 1;
      if ((starts[middle] as number) <= block) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  startOf(run: number): number {
    return this.#starts[run] as number;
  }

  endOf(run: number): number {
    return run + 1 < this.#starts.length ? (this.#starts[run + 1] as number) : this.blockCount;
  }

  /** Index into {@link builds}, or {@link ZERO_INDEX}. */
  buildOf(run: number): number {
    return this.#builds[run] as number;
  }

  /** Block of the build's diff file at which the run begins. */
  storageOf(run: number): number {
    return this.#storage[run] as number;
  }

  *runs(): Generator<Run> {
    for (let run = 0; run < this.runCount; run++) {
      const build = this.buildOf(run);
      yield {
        start: this.startOf(run),
        length: this.endOf(run) - this.startOf(run),
        buildId: build === ZERO_INDEX ? ZERO_BUILD : (this.builds[build] as string),
        storage: this.storageOf(run),
      };
    }
  }

  /** How many blocks of each build this mapping still needs. */
  blocksByBuild(): Map<string, number> {
    const blocks = new Map<string, number>();
    for (const run of this.runs()) {
      if (run.buildId === ZERO_BUILD) continue;
      blocks.set(run.buildId, (blocks.get(run.buildId) ?? 0) + run.length);
    }
    return blocks;
  }
}

/**
 * Makes a {@link Mapping} from runs given in order. A run that continues the one
 * before, in RAM and in storage alike, is joined to it.
 */
export class MappingBuilder {
  readonly #starts: number[] = [];
  readonly #builds: number[] = [];
  readonly #storage: number[] = [];
  readonly #indices = new Map<string, number>();
  #end = 0;

  /** The first block that no run covers yet. */
  get end(): number {
    return this.#end;
  }

  /** Adds `length` blocks that `buildId` stores from block `storage` of its diff file on. */
  append(length: number, buildId: string, storage: number): this {
    if (length === 0) return this;
    const zero = buildId === ZERO_BUILD;
    const build = zero ? ZERO_INDEX : this.#indexOf(buildId);
    const last = this.#starts.length - 1;
    const continues =
      last >= 0 &&
      this.#builds[last] === build &&
      (zero ||
        (this.#storage[last] as number) + this.#end - (this.#starts[last] as number) === storage);
    if (!continues) {
      this.#starts.push(this.#end);
      this.#builds.push(build);
      this.#storage.push(zero ? 0 : storage);
    }
    this.#end += length;
    return this;
  }

  appendZero(length: number): this {
    return this.append(length, ZERO_BUILD, 0);
  }

  /** The mapping of all that was appended. Throws RangeError if that is nothing. */
  build(): Mapping {
    if (this.#end === 0) throw new RangeError('A mapping covers at least one block.');
    return new Mapping(
      this.#end,
      [...this.#indices.keys()],
      Uint32Array.from(this.#starts),
      Uint32Array.from(this.#builds),
      Uint32Array.from(this.#storage),
    );
  }

  #indexOf(buildId: string): number {
    const known = this.#indices.get(buildId);
    if (known !== undefined) return known;
    const index = this.#indices.size;
    this.#indices.set(buildId, index);
    return index;
  }
}

/** A mapping in which every block is zero. */
export function zeroMapping(blockCount: number): Mapping {
  return new MappingBuilder().appendZero(blockCount).build();
}

/** A new generation's change of a block. */
export const BlockChange = { unchanged: 0, zero: 1, data: 2 } as const;

/**
 * What changed since the parent generation: one entry of {@link BlockChange} per block. Changed
 * blocks that are not zero are stored one after the other, in the order of their addresses, in
 * the new build's diff file.
 */
export type ChangeMap = Uint8Array;

/**
 * The mapping of a new generation: the blocks in `changes` come from `buildId` (or are zero),
 * the others are where `parent` has them. The parent's own ancestors are named directly, so
 * that a chain of any depth is one look-up.
 *
 * Throws RangeError when the two are of different sizes.
 */
export function applyChanges(parent: Mapping, buildId: string, changes: ChangeMap): Mapping {
  if (changes.length !== parent.blockCount) {
    throw new RangeError(`${changes.length} changes for ${parent.blockCount} blocks.`);
  }
  const builder = new MappingBuilder();
  let stored = 0;
  let run = 0;
  for (let block = 0; block < changes.length; ) {
    const change = changes[block] as number;
    const end = endOfEqual(changes, block);
    if (change === BlockChange.zero) {
      builder.appendZero(end - block);
    } else if (change === BlockChange.data) {
      builder.append(end - block, buildId, stored);
      stored += end - block;
    } else {
      run = inherit(builder, parent, run, block, end);
    }
    block = end;
  }
  return builder.build();
}

function endOfEqual(changes: ChangeMap, from: number): number {
  const value = changes[from];
  let end = from + 1;
  while (end < changes.length && changes[end] === value) end++;
  return end;
}

/** Copies `[from, to)` of `parent`; returns the run at which the search for a later block may begin. */
function inherit(
  builder: MappingBuilder,
  parent: Mapping,
  firstRun: number,
  from: number,
  to: number,
): number {
  let run = firstRun;
  while (parent.endOf(run) <= from) run++;
  for (let block = from; ; run++) {
    const end = Math.min(to, parent.endOf(run));
    const build = parent.buildOf(run);
    if (build === ZERO_INDEX) builder.appendZero(end - block);
    else {
      const storage = parent.storageOf(run) + block - parent.startOf(run);
      builder.append(end - block, parent.builds[build] as string, storage);
    }
    if (end === to) return run;
    block = end;
  }
}
