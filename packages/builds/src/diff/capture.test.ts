import { mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { applyChanges, BLOCK_SIZE, type Mapping, zeroMapping } from '../header/mapping.ts';
import { newBuildId } from '../uuid.ts';
import { type Capture, captureMemory, type Extent } from './capture.ts';
import { MemoryReader } from './memory-reader.ts';

/** How many random histories are tried; a campaign raises it. */
const CASES = Number(process.env.TORPOR_CAPTURE_CASES ?? 300);

let directory: string;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'torpor-capture-'));
});
afterAll(() => rm(directory, { recursive: true }));

/** RAM as one letter per block: a block is filled with that byte; `0` is zero. */
type Ram = number[];

function bytesOf(ram: Ram): Buffer {
  return Buffer.concat(ram.map((value) => Buffer.alloc(BLOCK_SIZE, value)));
}

/** The extents of the blocks that `present` says are no holes. */
function* extentsOf(present: boolean[]): Generator<Extent> {
  for (let block = 0; block < present.length; block++) {
    if (present[block]) yield { offset: block * BLOCK_SIZE, length: BLOCK_SIZE };
  }
}

/** A chain of builds in files of the test's directory. */
class Chain {
  mapping: Mapping;
  readonly #diffs = new Map<string, string>();

  constructor(blocks: number) {
    this.mapping = zeroMapping(blocks);
  }

  async withReader<T>(use: (reader: MemoryReader) => Promise<T>): Promise<T> {
    const files = await Promise.all(
      this.mapping.builds.map(async (id) => {
        const path = this.#diffs.get(id) ?? '';
        return { path, handle: await open(path) };
      }),
    );
    try {
      return await use(new MemoryReader(this.mapping, files));
    } finally {
      await Promise.all(files.map((file) => file.handle.close()));
    }
  }

  async commit(memoryBytes: Buffer, present: boolean[], mode: 'full' | 'resident' | 'dirty') {
    const id = newBuildId();
    const diffPath = join(directory, id);
    const memoryPath = join(directory, 'memory');
    await using memory = await open(memoryPath, 'w+');
    await memory.writeFile(memoryBytes);
    await using output = await open(diffPath, 'w+');
    const capture = await this.withReader((parent) =>
      captureMemory(
        {
          memory,
          blockCount: this.mapping.blockCount,
          extents: extentsOf(present),
          holes: mode === 'full' ? 'zero' : 'unchanged',
          ...(mode === 'resident' ? { parent } : {}),
        },
        output,
      ),
    );
    expect(capture.checksum).toBe(await checksumOf(diffPath, capture));
    this.#diffs.set(id, diffPath);
    const parent = mode === 'full' ? zeroMapping(this.mapping.blockCount) : this.mapping;
    this.mapping = applyChanges(parent, id, capture.changes);
    return capture;
  }

  async read(): Promise<Buffer> {
    const bytes = Buffer.alloc(this.mapping.blockCount * BLOCK_SIZE, 0xee);
    await this.withReader((reader) => reader.read(bytes, 0));
    return bytes;
  }
}

async function checksumOf(path: string, capture: Capture): Promise<number> {
  await using file = await open(path);
  const bytes = await file.readFile();
  expect(bytes.length).toBe(capture.storedBlocks * BLOCK_SIZE);
  return crc32(bytes);
}

/** A generation: what each block holds afterwards, and whether the guest touched it at all. */
const generation = (blocks: number) =>
  fc.record({
    values: fc.array(fc.integer({ min: 0, max: 3 }), { minLength: blocks, maxLength: blocks }),
    touched: fc.array(fc.boolean(), { minLength: blocks, maxLength: blocks }),
  });

describe.each(['resident', 'dirty', 'full'] as const)('captures of a %s memory file', (mode) => {
  test('read back as what the guest held, generation after generation', async () => {
    const history = fc
      .integer({ min: 1, max: 24 })
      .chain((blocks) => fc.array(generation(blocks), { minLength: 1, maxLength: 4 }));
    await fc.assert(
      fc.asyncProperty(history, async (generations) => {
        const chain = new Chain(generations[0]?.values.length ?? 0);
        let ram: Ram = new Array(chain.mapping.blockCount).fill(0);
        for (const { values, touched } of generations) {
          const next = ram.map((old, block) => (touched[block] ? (values[block] ?? 0) : old));
          // What is not in the file must not matter: a hole of a full image is zero in RAM too.
          const present = mode === 'full' ? next.map((value) => value !== 0) : touched;
          const file = bytesOf(next.map((value, block) => (present[block] ? value : 0)));
          await chain.commit(file, present, mode);
          ram = next;
          expect((await chain.read()).equals(bytesOf(ram))).toBe(true);
        }
      }),
      { numRuns: CASES },
    );
  });
});

test('a block that the guest zeroed is zero afterwards, and costs nothing', async () => {
  const chain = new Chain(3);
  await chain.commit(bytesOf([1, 2, 3]), [true, true, true], 'full');
  const capture = await chain.commit(bytesOf([1, 0, 3]), [true, true, true], 'resident');
  expect(capture.storedBlocks).toBe(0);
  expect((await chain.read()).equals(bytesOf([1, 0, 3]))).toBe(true);
});

test('a resident block that still holds what the parent says is not stored again', async () => {
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

test('a diff file that ends too early is named', async () => {
  const id = newBuildId();
  const path = join(directory, 'short');
  await using handle = await open(path, 'w+');
  await handle.writeFile(Buffer.alloc(BLOCK_SIZE));
  const mapping = applyChanges(zeroMapping(2), id, Uint8Array.of(2, 2));
  const reader = new MemoryReader(mapping, [{ path, handle }]);
  await expect(reader.read(Buffer.alloc(2 * BLOCK_SIZE), 0)).rejects.toThrow(/short: ends at/);
});
