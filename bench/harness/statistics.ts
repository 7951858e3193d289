/** The `p`-quantile of the samples, with linear interpolation between neighbours. */
export function quantile(samples: readonly number[], p: number): number {
  if (samples.length === 0) throw new RangeError('There are no samples.');
  const sorted = Float64Array.from(samples).sort();
  const position = (sorted.length - 1) * p;
  const low = Math.floor(position);
  const high = Math.ceil(position);
  const [a, b] = [sorted[low] as number, sorted[high] as number];
  return a + (b - a) * (position - low);
}

export function median(samples: readonly number[]): number {
  return quantile(samples, 0.5);
}

export interface Spread {
  readonly median: number;
  readonly lowerQuartile: number;
  readonly upperQuartile: number;
  readonly count: number;
}

export function spread(samples: readonly number[]): Spread {
  return {
    median: median(samples),
    lowerQuartile: quantile(samples, 0.25),
    upperQuartile: quantile(samples, 0.75),
    count: samples.length,
  };
}

export interface Ratio {
  /** Median over the rounds of the ratio within a round. */
  readonly median: number;
  /** 95 % interval of that median, by bootstrap over the rounds. */
  readonly low: number;
  readonly high: number;
  readonly rounds: number;
}

const RESAMPLES = 2000;

/**
 * The ratio of two series that were measured in the same rounds. Within a round both
 * ran under the same conditions, so temporary slowdowns of the machine cancel out. The
 * generator is seeded: the same samples give the same interval.
 */
export function pairedRatio(
  of: ReadonlyMap<number, number>,
  to: ReadonlyMap<number, number>,
): Ratio {
  const ratios: number[] = [];
  for (const [round, value] of of) {
    const base = to.get(round);
    if (base !== undefined && base !== 0) ratios.push(value / base);
  }
  if (ratios.length === 0) throw new RangeError('The two series have no round in common.');
  const random = seededRandom(ratios.length);
  const medians = Array.from({ length: RESAMPLES }, () =>
    median(ratios.map(() => ratios[Math.floor(random() * ratios.length)] as number)),
  );
  return {
    median: median(ratios),
    low: quantile(medians, 0.025),
    high: quantile(medians, 0.975),
    rounds: ratios.length,
  };
}

/** Numbers in [0, 1): mulberry32. */
function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
