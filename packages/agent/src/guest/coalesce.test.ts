import fc from 'fast-check';
import { expect, test } from 'vitest';
import { coalesce } from './coalesce.ts';

test('the bytes are unchanged, and only the last chunk may be short', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.uint8Array({ maxLength: 9 })),
      fc.integer({ min: 1, max: 12 }),
      async (chunks, least) => {
        async function* source() {
          yield* chunks;
        }
        const joined = await Array.fromAsync(coalesce(source(), least));
        expect(Buffer.concat(joined)).toEqual(Buffer.concat(chunks));
        for (const chunk of joined.slice(0, -1)) expect(chunk.length).toBeGreaterThanOrEqual(least);
        for (const chunk of joined) expect(chunk.length).toBeGreaterThan(0);
      },
    ),
  );
});
