import { closeSync, fstatSync, ftruncateSync, openSync, readSync, writeSync } from 'node:fs';
import { mkdtemp, open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import fc from 'fast-check';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { applyChanges, BLOCK_SIZE, type Mapping, zeroMapping } from '../header/mapping.ts';
import { newBuildId } from '../uuid.ts';
import { captureMemory, type Extent, type WritableFile } from './capture.ts';
import {
  type DiffFile,
  DiffFileReader,
  type MemoryReader,
  type ReadableFile,
} from './memory-reader.ts';

/** How many random histories are tried; a campaign raises it. */
const CASES = Number(process.env.TORPOR_CAPTURE_CASES ?? 100_000);
const SLOW = 20 * 60_000;

type Mode = 'full' | 'resident' | 'dirty';

/** A history is a fraction of a millisecond of work: its files are in memory, and the next one uses them again. */
const MEMORY_FILE_SYSTEM = '/dev/shm';
const MAX_GENERATIONS = 3;

/** Reads and writes without the thread pool, whose round trips would be most of the test's time. */
class TestFile implements ReadableFile, WritableFile, Disposable {
  readonly path: string;
  readonly #fd: number;

  constructor(path: string) {
    this.path = path;
    this.#fd = openSync(path, 'w+');
  }

  async read(buffer: Buffer, offset: number, length: number, position: number) {
    return { bytesRead: readSync(this.#fd, buffer, offset, length, position) };
  }

  async write(buffer: Buffer, offset: number, length: number, position: number) {
    return { bytesWritten: writeSync(this.#fd, buffer, offset, length, position) };
  }

  get contents(): Buffer {
    const bytes = Buffer.alloc(fstatSync(this.#fd).size);
    readSync(this.#fd, bytes, 0, bytes.length, 0);
    return bytes;
  }

  set contents(bytes: Buffer) {
    ftruncateSync(this.#fd, 0);
    writeSync(this.#fd, bytes, 0, bytes.length, 0);
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }
}

let directory: string;
let memory: TestFile;
/** One for each generation of a history. */
let diffs: readonly TestFile[];
beforeAll(async () => {
  directory = await mkdtemp(join(MEMORY_FILE_SYSTEM, 'torpor-capture-'));
  const file = (name: string | number) => new TestFile(join(directory, String(name)));
  memory = file('memory');
  diffs = Array.from({ length: MAX_GENERATIONS }, (_, generation) => file(generation));
});
afterAll(async () => {
  for (const file of [memory, ...diffs]) file[Symbol.dispose]();
  await rm(directory, { recursive: true });
});

/** RAM as one letter per block: a block is filled with that byte; `0` is zero. */
type Ram = number[];

function bytesOf(ram: Ram): Buffer {
  const bytes = Buffer.alloc(ram.length * BLOCK_SIZE);
  ram.forEach((value, block) => {
    if (value !== 0) bytes.fill(value, block * BLOCK_SIZE, (block + 1) * BLOCK_SIZE);
  });
  return bytes;
}

/** The extents of the blocks that `present` says are no holes; neighbours are one extent. */
function* extentsOf(present: boolean[]): Generator<Extent> {
  for (let block = 0; block < present.length; block++) {
    const first = block;
    while (present[block]) block++;
    if (block > first) yield { offset: first * BLOCK_SIZE, length: (block - first) * BLOCK_SIZE };
  }
}

/** A chain of builds in the test's files, which the next chain overwrites. */
class Chain {
  mapping: Mapping;
  readonly #diffs = new Map<string, DiffFile>();

  constructor(blocks: number) {
    this.mapping = zeroMapping(blocks);
  }

  #reader(): MemoryReader {
    const files = this.mapping.builds.map((id) => this.#diffs.get(id));
    return new DiffFileReader(
      this.mapping,
      files.filter((file) => file !== undefined),
    );
  }

  async commit(memoryBytes: Buffer, present: boolean[], mode: Mode) {
    const id = newBuildId();
    memory.contents = memoryBytes;
    const diff = diffs[this.#diffs.size];
    if (diff === undefined) throw new RangeError(`No more than ${MAX_GENERATIONS} generations.`);
    diff.contents = Buffer.alloc(0);
    this.#diffs.set(id, { path: diff.path, handle: diff });
    const capture = await captureMemory(
      {
        memory,
        blockCount: this.mapping.blockCount,
        extents: extentsOf(present),
        holes: mode === 'full' ? 'zero' : 'unchanged',
        ...(mode === 'resident' ? { parent: this.#reader() } : {}),
      },
      diff,
    );
    const stored = diff.contents;
    if (stored.length !== capture.storedBlocks * BLOCK_SIZE) expect.fail('a wrong length');
    if (crc32(stored) !== capture.checksum) expect.fail('a wrong checksum');
    const parent = mode === 'full' ? zeroMapping(this.mapping.blockCount) : this.mapping;
    this.mapping = applyChanges(parent, id, capture.changes);
    return capture;
  }

  async read(): Promise<Buffer> {
    const bytes = Buffer.alloc(this.mapping.blockCount * BLOCK_SIZE, 0xee);
    await this.#reader().read(bytes, 0);
    return bytes;
  }
}

/**
 * A generation: the content of each block afterwards, whether the guest touched it at all, and
 * how it is captured.
 */
const generation = (blocks: number) =>
  fc.record({
    values: fc.array(fc.integer({ min: 0, max: 3 }), { minLength: blocks, maxLength: blocks }),
    touched: fc.array(fc.boolean(), { minLength: blocks, maxLength: blocks }),
    mode: fc.constantFrom<Mode>('resident', 'dirty', 'full'),
  });

test("captures of all kinds, mixed in one chain, read back as the content of the guest's RAM", {
  timeout: SLOW,
}, async () => {
  const history = fc
    .integer({ min: 1, max: 8 })
    .chain((blocks) => fc.array(generation(blocks), { minLength: 1, maxLength: MAX_GENERATIONS }));
  await fc.assert(
    fc.asyncProperty(history, async (generations) => {
      const chain = new Chain(generations[0]?.values.length ?? 0);
      let ram: Ram = new Array(chain.mapping.blockCount).fill(0);
      for (const { values, touched, mode } of generations) {
        const next = ram.map((old, block) => (touched[block] ? (values[block] ?? 0) : old));
        // The old content of the file must not matter: a hole of a full dump is zero in RAM too.
        const present = mode === 'full' ? next.map((value) => value !== 0) : touched;
        const file = bytesOf(next.map((value, block) => (present[block] ? value : 0)));
        await chain.commit(file, present, mode);
        ram = next;
        if (!(await chain.read()).equals(bytesOf(ram))) expect.fail('RAM reads back otherwise');
      }
    }),
    { numRuns: CASES },
  );
});

test('a block that the guest zeroed is zero afterwards, and costs nothing', async () => {
  const chain = new Chain(3);
  await chain.commit(bytesOf([1, 2, 3]), [true, true, true], 'full');
  const capture = await chain.commit(bytesOf([1, 0, 3]), [true, true, true], 'resident');
  expect(capture.storedBlocks).toBe(0);
  expect((await chain.read()).equals(bytesOf([1, 0, 3]))).toBe(true);
});

test('a resident block with the same content as in the parent is not stored again', async () => {
  const chain = new Chain(300);
  const ram = Array.from({ length: 300 }, (_, block) => (block % 255) + 1);
  await chain.commit(
    bytesOf(ram),
    ram.map(() => true),
    'full',
  );
  ram[299] = 9;
  const capture = await chain.commit(
    bytesOf(ram),
    ram.map(() => true),
    'resident',
  );
  expect(capture.storedBlocks).toBe(1);
  expect((await chain.read()).equals(bytesOf(ram))).toBe(true);
});

test('a diff file that is too short is named', async () => {
  const id = newBuildId();
  const path = join(directory, 'short');
  await using handle = await open(path, 'w+');
  await handle.writeFile(Buffer.alloc(BLOCK_SIZE));
  const mapping = applyChanges(zeroMapping(2), id, Uint8Array.of(2, 2));
  const reader = new DiffFileReader(mapping, [{ path, handle }]);
  await expect(reader.read(Buffer.alloc(2 * BLOCK_SIZE), 0)).rejects.toThrow(/short: ends at/);
});
