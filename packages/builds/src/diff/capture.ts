import { crc32 } from 'node:zlib';
import { BLOCK_SIZE, BlockChange, type ChangeMap } from '../header/mapping.ts';
import type { MemoryReader, ReadableFile } from './memory-reader.ts';

/** The methods of `FileHandle` with which a diff file is written. */
export interface WritableFile {
  write(
    buffer: Buffer,
    offset: number,
    length: number,
    position: number,
  ): Promise<{ readonly bytesWritten: number }>;
}

/** A part of a sparse file that has data; bytes. */
export interface Extent {
  readonly offset: number;
  readonly length: number;
}

export interface CaptureSource {
  /** RAM, or a sparse diff of it, of `blockCount` blocks. */
  readonly memory: ReadableFile;
  readonly blockCount: number;
  /** The parts of `memory` that are no holes, in order (`SEEK_DATA`, `SEEK_HOLE`). */
  readonly extents: Iterable<Extent> | AsyncIterable<Extent>;
  /**
   * What a hole means. `zero`: `memory` is a full dump, a hole reads as zeros. `unchanged`:
   * `memory` has only what the guest has touched since the parent generation.
   */
  readonly holes: 'zero' | 'unchanged';
  /**
   * The parent generation, where data in `memory` may also be unchanged (resident pages of a
   * restored guest). If omitted, data is changed, as in a dirty-page dump.
   */
  readonly parent?: MemoryReader;
}

export interface Capture {
  readonly changes: ChangeMap;
  /** Blocks written to the diff file. */
  readonly storedBlocks: number;
  /** CRC-32 of the diff file. */
  readonly checksum: number;
}

const CHUNK_BLOCKS = 256;

/**
 * Compares RAM with the parent generation, and writes the blocks that changed
 * and are not zero one after the other to `output`. A block that the guest zeroed
 * counts as *changed to zero*, never as unchanged, and costs no storage.
 *
 * A full dump, a sparse diff file and the resident pages of a shared memory file differ in
 * `holes` and `parent` only.
 */
export async function captureMemory(source: CaptureSource, output: WritableFile): Promise<Capture> {
  const capture = new MemoryCapture(source, output);
  for await (const extent of source.extents) await capture.add(extent);
  return capture.finish();
}

class MemoryCapture {
  readonly #source: CaptureSource;
  readonly #output: WritableFile;
  readonly #changes: ChangeMap;
  readonly #chunk: Buffer;
  readonly #words: Int32Array;
  readonly #before: Buffer;
  #nextBlock = 0;
  #storedBlocks = 0;
  #checksum = 0;

  constructor(source: CaptureSource, output: WritableFile) {
    this.#source = source;
    this.#output = output;
    const chunkBytes = Math.min(CHUNK_BLOCKS, source.blockCount) * BLOCK_SIZE;
    this.#chunk = Buffer.allocUnsafeSlow(chunkBytes);
    this.#words = new Int32Array(this.#chunk.buffer);
    this.#before = Buffer.allocUnsafeSlow(chunkBytes);
    const unmentioned = source.holes === 'zero' ? BlockChange.zero : BlockChange.unchanged;
    this.#changes = new Uint8Array(source.blockCount).fill(unmentioned);
  }

  /** Extents may begin and end within a block: the file system's blocks may be of another size. */
  async add(extent: Extent): Promise<void> {
    const first = Math.max(this.#nextBlock, Math.floor(extent.offset / BLOCK_SIZE));
    const end = Math.min(
      this.#source.blockCount,
      Math.ceil((extent.offset + extent.length) / BLOCK_SIZE),
    );
    for (let block = first; block < end; block += CHUNK_BLOCKS) {
      await this.#addChunk(block, Math.min(CHUNK_BLOCKS, end - block));
    }
    this.#nextBlock = Math.max(this.#nextBlock, end);
  }

  finish(): Capture {
    return {
      changes: this.#changes,
      storedBlocks: this.#storedBlocks,
      checksum: this.#checksum,
    };
  }

  async #addChunk(firstBlock: number, count: number): Promise<void> {
    const chunk = this.#chunk.subarray(0, count * BLOCK_SIZE);
    await readOrZero(this.#source.memory, chunk, firstBlock * BLOCK_SIZE);
    const before = this.#before.subarray(0, chunk.length);
    await this.#source.parent?.read(before, firstBlock);
    let kept = 0;
    for (let index = 0; index < count; index++) {
      const change = this.#classify(index);
      this.#changes[firstBlock + index] = change;
      if (change !== BlockChange.data) continue;
      // Blocks to be stored move to the front of the chunk, to be written at once.
      if (kept !== index) {
        chunk.copyWithin(kept * BLOCK_SIZE, index * BLOCK_SIZE, (index + 1) * BLOCK_SIZE);
      }
      kept++;
    }
    if (kept > 0) await this.#store(chunk.subarray(0, kept * BLOCK_SIZE));
  }

  #classify(index: number): number {
    const from = index * BLOCK_SIZE;
    const to = from + BLOCK_SIZE;
    const { parent } = this.#source;
    if (parent !== undefined && this.#chunk.compare(this.#before, from, to, from, to) === 0) {
      return BlockChange.unchanged;
    }
    return this.#isZero(index) ? BlockChange.zero : BlockChange.data;
  }

  #isZero(index: number): boolean {
    const wordsPerBlock = BLOCK_SIZE / Int32Array.BYTES_PER_ELEMENT;
    const end = (index + 1) * wordsPerBlock;
    for (let at = index * wordsPerBlock; at < end; at++) {
      if (this.#words[at] !== 0) return false;
    }
    return true;
  }

  async #store(bytes: Buffer): Promise<void> {
    this.#checksum = crc32(bytes, this.#checksum);
    let written = 0;
    const position = this.#storedBlocks * BLOCK_SIZE;
    while (written < bytes.length) {
      const { bytesWritten } = await this.#output.write(
        bytes,
        written,
        bytes.length - written,
        position + written,
      );
      written += bytesWritten;
    }
    this.#storedBlocks += bytes.length / BLOCK_SIZE;
  }
}

/** Beyond the end of the file it reads as zeros, as in a hole. */
async function readOrZero(file: ReadableFile, target: Buffer, position: number): Promise<void> {
  let filled = 0;
  while (filled < target.length) {
    const { bytesRead } = await file.read(
      target,
      filled,
      target.length - filled,
      position + filled,
    );
    if (bytesRead === 0) {
      target.fill(0, filled);
      return;
    }
    filled += bytesRead;
  }
}
