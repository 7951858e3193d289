import { BuildFormatError } from '../errors.ts';
import { BLOCK_SIZE, type Mapping, ZERO_INDEX } from '../header/mapping.ts';

/** The methods of `FileHandle` with which this package reads. */
export interface ReadableFile {
  read(
    buffer: Buffer,
    offset: number,
    length: number,
    position: number,
  ): Promise<{ readonly bytesRead: number }>;
}

/** A diff file that a mapping refers to, open for reading. */
export interface DiffFile {
  /** Names the file in errors. */
  readonly path: string;
  readonly handle: ReadableFile;
}

/** Guest RAM as a header describes it. */
export interface MemoryReader {
  readonly mapping: Mapping;
  /**
   * Fills `target`, a whole number of blocks, with RAM from `firstBlock` on. Throws {@link
   * BuildFormatError} if a diff file is too short.
   */
  read(target: Buffer, firstBlock: number): Promise<void>;
}

/** Reads guest RAM from the diff files of the builds that a mapping names. */
export class DiffFileReader implements MemoryReader {
  readonly mapping: Mapping;
  readonly #files: readonly DiffFile[];

  /** `files` are in the order of `mapping.builds`; the caller closes them. */
  constructor(mapping: Mapping, files: readonly DiffFile[]) {
    if (files.length !== mapping.builds.length) {
      throw new RangeError(`${files.length} diff files for ${mapping.builds.length} builds.`);
    }
    this.mapping = mapping;
    this.#files = files;
  }

  async read(target: Buffer, firstBlock: number): Promise<void> {
    const lastBlock = firstBlock + target.length / BLOCK_SIZE;
    for (let block = firstBlock; block < lastBlock; ) {
      const run = this.mapping.find(block);
      const end = Math.min(lastBlock, this.mapping.endOf(run));
      const piece = target.subarray(
        (block - firstBlock) * BLOCK_SIZE,
        (end - firstBlock) * BLOCK_SIZE,
      );
      const build = this.mapping.buildOf(run);
      if (build === ZERO_INDEX) piece.fill(0);
      else {
        const storage = this.mapping.storageOf(run) + block - this.mapping.startOf(run);
        await readFully(this.#files[build] as DiffFile, piece, storage * BLOCK_SIZE);
      }
      block = end;
    }
  }
}

async function readFully(file: DiffFile, target: Buffer, position: number): Promise<void> {
  let filled = 0;
  while (filled < target.length) {
    const { bytesRead } = await file.handle.read(
      target,
      filled,
      target.length - filled,
      position + filled,
    );
    if (bytesRead === 0) {
      throw new BuildFormatError(
        file.path,
        `ends at byte ${position + filled}, before the end of RAM`,
      );
    }
    filled += bytesRead;
  }
}
