import fc from 'fast-check';
import { expect, test } from 'vitest';
import { KeyedLock } from './keyed-lock.ts';

test('actions of one key never overlap and keep their order; no lock is left', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.scheduler(),
      fc.array(fc.record({ key: fc.constantFrom('a', 'b'), fails: fc.boolean() }), {
        maxLength: 8,
      }),
      async (scheduler, actions) => {
        const lock = new KeyedLock();
        const inside = new Set<string>();
        const order: Record<string, number[]> = { a: [], b: [] };
        const runs = actions.map(({ key, fails }, index) =>
          lock
            .with(key, async () => {
              expect(inside.has(key)).toBe(false);
              inside.add(key);
              await scheduler.schedule(Promise.resolve());
              inside.delete(key);
              order[key]?.push(index);
              if (fails) throw new Error('failed');
            })
            .catch((error: Error) => expect(error.message).toBe('failed')),
        );
        await scheduler.waitFor(Promise.all(runs));
        for (const indices of Object.values(order)) {
          expect(indices).toEqual(indices.toSorted((x, y) => x - y));
        }
        expect(lock.size).toBe(0);
      },
    ),
    { numRuns: 50 },
  );
});
