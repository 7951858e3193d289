import { describe, expect, test } from 'vitest';
import { median, pairedRatio, quantile, spread } from './statistics.ts';

test('quantiles interpolate between neighbours', () => {
  expect(median([3, 1, 2])).toBe(2);
  expect(median([4, 1, 2, 3])).toBe(2.5);
  expect(quantile([10, 20, 30, 40, 50], 0.25)).toBe(20);
  expect(spread([1, 2, 3, 4, 5])).toEqual({
    median: 3,
    lowerQuartile: 2,
    upperQuartile: 4,
    count: 5,
  });
});

describe('the ratio of two series', () => {
  const slow = new Map([4, 8, 40, 4, 6].map((value, round) => [round, value]));
  const half = new Map([...slow].map(([round, value]) => [round, value / 2]));

  test('is taken within rounds, so that a slow round changes nothing', () => {
    expect(pairedRatio(slow, half)).toEqual({ median: 2, low: 2, high: 2, rounds: 5 });
  });

  test('has an interval that contains it, and is deterministic', () => {
    const noisy = new Map([...half].map(([round, value]) => [round, value * (1 + round / 10)]));
    const ratio = pairedRatio(slow, noisy);
    expect(ratio.low).toBeLessThan(ratio.median);
    expect(ratio.high).toBeGreaterThan(ratio.median);
    expect(pairedRatio(slow, noisy)).toEqual(ratio);
  });

  test('uses only rounds that both have', () => {
    expect(pairedRatio(slow, new Map([[2, 20]])).rounds).toBe(1);
    expect(() => pairedRatio(slow, new Map([[9, 1]]))).toThrow(/no round in common/);
  });
});
