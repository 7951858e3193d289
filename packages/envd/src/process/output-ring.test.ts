import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type OutputChunk, type OutputKind, OutputRing } from './output-ring.ts';

const chunk = fc.record({
  kind: fc.constantFrom<OutputKind>('stdout', 'stderr'),
  bytes: fc.uint8Array({ maxLength: 40 }),
});

/** Each byte with its stream. */
const flat = (chunks: readonly OutputChunk[]): string[] =>
  chunks.flatMap(({ kind, bytes }) => [...bytes].map((byte) => `${kind}:${byte}`));

describe('OutputRing', () => {
  it('keeps the last bytes of both streams in their order', () => {
    fc.assert(
      fc.property(
        fc.array(chunk, { maxLength: 60 }),
        fc.integer({ min: 1, max: 64 }),
        (chunks, limit) => {
          const ring = new OutputRing(limit);
          for (const each of chunks) ring.push(each);
          expect(flat(ring.chunks())).toEqual(flat(chunks).slice(-limit));
        },
      ),
    );
  });

  it('does not change what it has returned', () => {
    const ring = new OutputRing(4);
    ring.push({ kind: 'pty', bytes: Buffer.from('abcd') });
    const [before] = ring.chunks();
    ring.push({ kind: 'pty', bytes: Buffer.from('efgh') });
    expect(Buffer.from(before?.bytes ?? []).toString()).toBe('abcd');
  });

  it('bounds the cost of alternating streams', () => {
    const ring = new OutputRing(64 * 1024);
    for (let index = 0; index < 10_000; index += 1) {
      ring.push({ kind: index % 2 === 0 ? 'stdout' : 'stderr', bytes: Buffer.from([index & 255]) });
    }
    const kept = ring.chunks();
    expect(kept.length).toBeLessThanOrEqual(1024);
    expect(flat(kept).at(-1)).toBe(`stderr:${9999 & 255}`);
  });
});
