import { randomBytes } from 'node:crypto';
import { gunzipSync } from 'node:zlib';
import { expect, it } from 'vitest';
import { gzip } from './gzip.ts';

const BLOCK = 256 * 1024;
const text = Buffer.alloc(BLOCK, 'the same text again and again\n');
const random = randomBytes(BLOCK);

async function pieces(...chunks: Buffer[]): Promise<Buffer[]> {
  return Array.fromAsync(
    gzip(
      (async function* () {
        yield* chunks;
      })(),
    ),
  );
}

it.each([
  ['nothing', []],
  ['a byte', [Buffer.from('x')]],
  ['a block and a byte', [Buffer.concat([text, Buffer.from('x')])]],
  ['empty chunks', [Buffer.alloc(0), text, Buffer.alloc(0)]],
  ['random and other blocks alternating', [random, text, random, random, text]],
  ['a random block that begins like text', [Buffer.concat([text.subarray(0, 20_000), random])]],
  [
    'stored blocks of the greatest length',
    [random.subarray(0, 0xffff), random.subarray(0, 0x1fffe)],
  ],
  ['chunks of odd sizes', [random.subarray(0, 7), text.subarray(3), random.subarray(1, 100_001)]],
])('packs %s into one member', async (_, chunks) => {
  const packed = Buffer.concat(await pieces(...chunks));
  expect(gunzipSync(packed).equals(Buffer.concat(chunks))).toBe(true);
});

it('adds next to nothing to random bytes, and yields each block in one piece', async () => {
  const packed = await pieces(random, random);
  const lengths = packed.map((piece) => piece.length);
  // Header, blocks, trailer: a client that is slow with many small pieces gets few large ones.
  expect(lengths).toEqual([10, BLOCK + 25, BLOCK + 25, 13]);
});
