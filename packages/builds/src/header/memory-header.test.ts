import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { BuildFormatError } from '../errors.ts';
import { newBuildId, ZERO_BUILD } from '../uuid.ts';
import { BLOCK_SIZE, MappingBuilder } from './mapping.ts';
import { type MemoryHeader, parseMemoryHeader, writeMemoryHeader } from './memory-header.ts';

/** How many inputs the fuzzer tries; a campaign raises it. */
const CASES = Number(process.env.TORPOR_FUZZ_CASES ?? 100_000);

const BUILD = '0190b5a0-0000-7000-8000-000000000001';
const BASE = '0190b5a0-0000-7000-8000-000000000002';
const PATH = 'builds/x/memfile.header';

function sample(): MemoryHeader {
  const mapping = new MappingBuilder()
    .append(2, BUILD, 0)
    .appendZero(3)
    .append(1, BASE, 7)
    .append(2, BUILD, 2)
    .build();
  return { generation: 3, buildId: BUILD, baseBuildId: BASE, mapping };
}

describe('the memory header', () => {
  test('has the bytes that the format specifies', () => {
    const bytes = writeMemoryHeader(sample());
    expect(bytes.length).toBe(64 + 4 * 40);
    expect(bytes.subarray(0, 32).toString('hex')).toBe(
      '0100000000000000001000000000000000800000000000000300000000000000',
    );
    expect(bytes.subarray(32, 64).toString('hex')).toBe(`${BUILD}${BASE}`.replaceAll('-', ''));
    const third = bytes.subarray(64 + 2 * 40, 64 + 3 * 40);
    expect(third.readBigUInt64LE(0)).toBe(5n * 4096n);
    expect(third.readBigUInt64LE(8)).toBe(4096n);
    expect(third.subarray(16, 32).toString('hex')).toBe(BASE.replaceAll('-', ''));
    expect(third.readBigUInt64LE(32)).toBe(7n * 4096n);
  });

  test('reads back as it was written', () => {
    const header = parseMemoryHeader(writeMemoryHeader(sample()), { path: PATH });
    expect([...header.mapping.runs()]).toEqual([...sample().mapping.runs()]);
    expect(header).toMatchObject({ generation: 3, buildId: BUILD, baseBuildId: BASE });
  });

  test('without records describes a build that stores everything', () => {
    const bytes = writeMemoryHeader(sample()).subarray(0, 64);
    const header = parseMemoryHeader(bytes, { path: PATH });
    expect([...header.mapping.runs()]).toEqual([
      { start: 0, length: 8, buildId: BUILD, storage: 0 },
    ]);
  });

  const damaged: [string, (bytes: Buffer) => Buffer, RegExp][] = [
    ['truncated metadata', (b) => b.subarray(0, 63), /too few/],
    ['a torn record', (b) => b.subarray(0, b.length - 1), /torn/],
    ['another version', (b) => set(b, 0, 2n), /format version 2/],
    ['another block size', (b) => set(b, 8, 0n), /block size 0/],
    ['no RAM', (b) => set(b, 16, 0n), /RAM size 0/],
    ['RAM of no whole blocks', (b) => set(b, 16, 4097n), /not a multiple/],
    ['RAM beyond what is addressable', (b) => set(b, 16, 1n << 60n), /out of range/],
    ['a nil build id', (b) => Buffer.from(b.fill(0, 32, 48)), /build id is nil/],
    ['a missing last record', (b) => b.subarray(0, b.length - 40), /ends at/],
    ['a gap', (b) => set(b, 64 + 40, 3n * 4096n), /gap/],
    ['an overlap', (b) => set(b, 64 + 40, 4096n), /overlap/],
    ['an empty record', (b) => set(b, 64 + 40 + 8, 0n), /empty/],
    [
      'a record beyond the end',
      (b) => set(b, 64 + 3 * 40 + 8, 3n * 4096n),
      /beyond the end of RAM/,
    ],
    ['an unaligned storage offset', (b) => set(b, 64 + 32, 1n), /not a multiple/],
  ];

  function set(bytes: Buffer, at: number, value: bigint): Buffer {
    bytes.writeBigUInt64LE(value, at);
    return bytes;
  }

  test.each(damaged)('%s is refused with a sentence that names the file', (_, damage, what) => {
    const parse = () => parseMemoryHeader(damage(writeMemoryHeader(sample())), { path: PATH });
    expect(parse).toThrow(BuildFormatError);
    expect(parse).toThrow(what);
    expect(parse).toThrow(PATH);
  });

  test('blocks of a build that is missing, or too short, are refused', () => {
    const bytes = writeMemoryHeader(sample());
    const stored = (base: number | undefined) => (id: string) => (id === BASE ? base : 4);
    const parse = (base: number | undefined) =>
      parseMemoryHeader(bytes, { path: PATH, storedBlocks: stored(base) });
    expect(() => parse(undefined)).toThrow(/missing/);
    expect(() => parse(7)).toThrow(/beyond the end of build/);
    expect(parse(8).mapping.blockCount).toBe(8);
  });

  test('for any bytes it returns a well-formed header or a typed error', () => {
    const mutated = fc
      .array(fc.tuple(fc.nat(64 + 4 * 40 - 1), fc.nat(255)), { minLength: 1, maxLength: 8 })
      .map((edits) => {
        const bytes = writeMemoryHeader(sample());
        for (const [at, value] of edits) bytes[at] = value;
        return bytes;
      });
    const input = fc.oneof(mutated, fc.uint8Array({ maxLength: 300 }));
    fc.assert(
      fc.property(input, (bytes) => {
        try {
          const { mapping } = parseMemoryHeader(bytes, { path: PATH });
          let end = 0;
          for (const run of mapping.runs()) {
            if (run.start !== end || run.length <= 0) expect.fail('not sorted and covering');
            end += run.length;
          }
          if (end !== mapping.blockCount) expect.fail('not covering');
          if (mapping.blockCount * BLOCK_SIZE !== Number(Buffer.from(bytes).readBigUInt64LE(16))) {
            expect.fail('another size than the metadata says');
          }
        } catch (error) {
          if (!(error instanceof BuildFormatError)) throw error;
        }
      }),
      { numRuns: CASES },
    );
  });
});

test('build ids sort by time and are version 7', () => {
  const early = newBuildId(1_700_000_000_000);
  const late = newBuildId(1_700_000_000_001);
  expect(early < late).toBe(true);
  expect(early).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  expect(early).not.toBe(ZERO_BUILD);
});
