import { BuildFormatError } from '../errors.ts';
import { uuidFromBytes, uuidToBytes, ZERO_BUILD } from '../uuid.ts';
import { BLOCK_SIZE, type Mapping, MappingBuilder } from './mapping.ts';

/**
 * The memory header, file `memfile.header`. Little-endian, no padding:
 *
 *   64 bytes   version u64 = 1 | block size u64 = 4096 | RAM size u64 (bytes)
 *              | generation u64 | build id 16 B | base build id 16 B
 *   n × 40     offset u64 | length u64 | build id 16 B | storage offset u64
 *
 * UUIDs are raw, in RFC order; the nil UUID marks zero blocks, whose storage offset is ignored.
 * Records continue to the end of the file; none at all means that the build itself stores
 * everything. Wrenn's format, byte for byte.
 */
export interface MemoryHeader {
  /** 0 for a build without parent, else the parent's plus one. */
  readonly generation: number;
  readonly buildId: string;
  /** The first build of the chain. */
  readonly baseBuildId: string;
  readonly mapping: Mapping;
}

const HEADER_VERSION = 1;
const METADATA_BYTES = 64;
const RECORD_BYTES = 40;

/** 16 TiB: what block numbers of 32 bits can address. */
export const MAX_MEMORY_BYTES = 2 ** 32 * BLOCK_SIZE;

/** Blocks in the diff file of a build, or undefined if there is no such build. */
export type StoredBlocks = (buildId: string) => number | undefined;

export interface ParseOptions {
  /** Names the file in errors. */
  readonly path: string;
  /** Where given, each run must be within the diff file of an existing build. */
  readonly storedBlocks?: StoredBlocks;
}

/**
 * Reads a header, or throws {@link BuildFormatError} with what is wrong with it. It allocates
 * in proportion to the number of bytes given, whatever their content.
 */
export function parseMemoryHeader(bytes: Uint8Array, options: ParseOptions): MemoryHeader {
  const reader = new HeaderReader(bytes, options);
  return reader.read();
}

export function writeMemoryHeader(header: MemoryHeader): Buffer {
  const { mapping } = header;
  const bytes = Buffer.alloc(METADATA_BYTES + RECORD_BYTES * mapping.runCount);
  bytes.writeBigUInt64LE(BigInt(HEADER_VERSION), 0);
  bytes.writeBigUInt64LE(BigInt(BLOCK_SIZE), 8);
  bytes.writeBigUInt64LE(BigInt(mapping.blockCount * BLOCK_SIZE), 16);
  bytes.writeBigUInt64LE(BigInt(header.generation), 24);
  uuidToBytes(header.buildId).copy(bytes, 32);
  uuidToBytes(header.baseBuildId).copy(bytes, 48);
  let at = METADATA_BYTES;
  for (const run of mapping.runs()) {
    bytes.writeBigUInt64LE(BigInt(run.start * BLOCK_SIZE), at);
    bytes.writeBigUInt64LE(BigInt(run.length * BLOCK_SIZE), at + 8);
    uuidToBytes(run.buildId).copy(bytes, at + 16);
    bytes.writeBigUInt64LE(BigInt(run.storage * BLOCK_SIZE), at + 32);
    at += RECORD_BYTES;
  }
  return bytes;
}

/** A build that records name: each names one of a few, and there may be many thousand records. */
interface StoringBuild {
  readonly id: string;
  /** Blocks in its diff file; undefined: not to be checked. */
  readonly stored: number | undefined;
}

class HeaderReader {
  readonly #bytes: Buffer;
  readonly #options: ParseOptions;
  /** By the 16 raw bytes of the id, as characters. */
  readonly #holders = new Map<string, StoringBuild>();

  constructor(bytes: Uint8Array, options: ParseOptions) {
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#options = options;
  }

  read(): MemoryHeader {
    const length = this.#bytes.length;
    if (length < METADATA_BYTES) this.#fail(`${length} bytes are too few for a memory header`);
    const version = this.#bytes.readBigUInt64LE(0);
    if (version !== BigInt(HEADER_VERSION)) {
      this.#fail(`format version ${version} instead of ${HEADER_VERSION}`);
    }
    const blockSize = this.#bytes.readBigUInt64LE(8);
    if (blockSize !== BigInt(BLOCK_SIZE)) {
      this.#fail(`block size ${blockSize} instead of ${BLOCK_SIZE}`);
    }
    const blockCount = this.#blocks(16, 'RAM size');
    if (blockCount === 0) this.#fail('RAM size 0');
    const generation = this.#bytes.readBigUInt64LE(24);
    if (generation > 0xffff_ffffn) this.#fail(`generation ${generation} is out of range`);
    const buildId = uuidFromBytes(this.#bytes.subarray(32, 48));
    const baseBuildId = uuidFromBytes(this.#bytes.subarray(48, 64));
    if (buildId === ZERO_BUILD) this.#fail('the build id is nil');
    if (baseBuildId === ZERO_BUILD) this.#fail('the base build id is nil');
    if ((length - METADATA_BYTES) % RECORD_BYTES !== 0) {
      this.#fail(`torn: ${length} bytes end within a mapping record`);
    }
    const mapping = this.#readMapping(blockCount, buildId);
    return { generation: Number(generation), buildId, baseBuildId, mapping };
  }

  #readMapping(blockCount: number, buildId: string): Mapping {
    const builder = new MappingBuilder();
    for (let at = METADATA_BYTES; at < this.#bytes.length; at += RECORD_BYTES) {
      const start = this.#blocks(at, 'offset');
      const length = this.#blocks(at + 8, 'length');
      if (start !== builder.end) {
        const what = start < builder.end ? 'overlap or are out of order' : 'leave a gap';
        this.#fail(`the mapping records ${what} at offset ${start * BLOCK_SIZE}`);
      }
      if (length === 0) this.#fail(`an empty mapping record at offset ${start * BLOCK_SIZE}`);
      if (start + length > blockCount) this.#fail('a mapping record reaches beyond the end of RAM');
      const holder = this.#holderAt(at + 16);
      if (holder.id === ZERO_BUILD) {
        builder.appendZero(length);
        continue;
      }
      const storage = this.#blocks(at + 32, 'storage offset');
      this.#checkStored(holder, storage + length);
      builder.append(length, holder.id, storage);
    }
    if (builder.end === 0) {
      this.#checkStored(this.#holder(buildId), blockCount);
      builder.append(blockCount, buildId, 0);
    }
    if (builder.end !== blockCount) {
      this.#fail(
        `the mapping ends at ${builder.end * BLOCK_SIZE} of ${blockCount * BLOCK_SIZE} bytes`,
      );
    }
    return builder.build();
  }

  #holderAt(at: number): StoringBuild {
    const key = this.#bytes.toString('latin1', at, at + 16);
    let holder = this.#holders.get(key);
    if (holder === undefined) {
      holder = this.#holder(uuidFromBytes(this.#bytes.subarray(at, at + 16)));
      this.#holders.set(key, holder);
    }
    return holder;
  }

  #holder(id: string): StoringBuild {
    const { storedBlocks } = this.#options;
    if (storedBlocks === undefined || id === ZERO_BUILD) return { id, stored: undefined };
    const stored = storedBlocks(id);
    if (stored === undefined) {
      this.#fail(
        `it names build ${id}, which is missing`,
        'Restore that build from a backup, or delete what was made from it.',
      );
    }
    return { id, stored };
  }

  #checkStored({ id, stored }: StoringBuild, end: number): void {
    if (stored !== undefined && end > stored) {
      this.#fail(`it names blocks beyond the end of build ${id}`);
    }
  }

  /** A byte count of the file, in blocks. */
  #blocks(at: number, what: string): number {
    const value = this.#bytes.readBigUInt64LE(at);
    if (value > BigInt(MAX_MEMORY_BYTES)) this.#fail(`${what} ${value} is out of range`);
    const blocks = Number(value) / BLOCK_SIZE;
    if (!Number.isInteger(blocks))
      this.#fail(`${what} ${value} is not a multiple of ${BLOCK_SIZE}`);
    return blocks;
  }

  #fail(what: string, remedy?: string): never {
    throw new BuildFormatError(this.#options.path, what, remedy);
  }
}
