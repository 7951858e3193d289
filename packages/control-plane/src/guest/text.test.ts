import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { completeUtf8Length, TextPieces } from './text.ts';

function join(chunks: readonly Uint8Array[]): { bytes: Buffer; texts: number; binaries: number } {
  const pieces = new TextPieces();
  const parts: Buffer[] = [];
  let texts = 0;
  let binaries = 0;
  for (const piece of [...chunks.map((chunk) => pieces.push(chunk)), pieces.flush()]) {
    if (piece === undefined) continue;
    if (piece.encoding === 'base64') binaries++;
    else texts++;
    parts.push(Buffer.from(piece.data, piece.encoding ?? 'utf8'));
  }
  return { bytes: Buffer.concat(parts), texts, binaries };
}

describe('TextPieces', () => {
  test('loses no byte, for any content and any cuts', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 12 })), (chunks) => {
        expect(join(chunks).bytes).toEqual(Buffer.concat(chunks));
      }),
    );
  });

  test('text remains text when chunks cut its characters', () => {
    fc.assert(
      fc.property(
        fc.string({ unit: 'binary', minLength: 1, maxLength: 20 }),
        fc.integer({ min: 1, max: 5 }),
        (text, size) => {
          const all = Buffer.from(text);
          const chunks: Buffer[] = [];
          for (let at = 0; at < all.length; at += size) chunks.push(all.subarray(at, at + size));
          const joined = join(chunks);
          expect(joined.binaries).toBe(0);
          expect(joined.bytes.toString()).toBe(text);
        },
      ),
      { numRuns: 50 },
    );
  });

  test('output that is not UTF-8 becomes base64', () => {
    expect(new TextPieces().push(Buffer.from([0xff, 0x41]))).toEqual({
      data: '/0E=',
      encoding: 'base64',
    });
  });
});

test.each([
  ['', 0],
  ['a', 1],
  ['é', 2],
  ['€', 3],
  ['𝄞', 4],
])('a cut inside %j is seen', (text, length) => {
  const bytes = Buffer.from(`x${text}`);
  expect(completeUtf8Length(bytes)).toBe(length + 1);
  for (let cut = 1; cut < length; cut++) {
    expect(completeUtf8Length(bytes.subarray(0, bytes.length - cut))).toBe(1);
  }
});
