import { expect, test } from 'vitest';
import { tscKhz } from './tsc.ts';

test('the time stamp counter has a plausible frequency, and is measured once', async () => {
  const [first, second] = [await tscKhz(), await tscKhz()];
  expect(second).toBe(first);
  // Every x86-64 processor counts between 0.5 and 10 GHz.
  expect(first).toBeGreaterThan(500_000);
  expect(first).toBeLessThan(10_000_000);
});
