import type { BenchmarkContext } from './benchmark.ts';

/** One of the things that are compared: does it once, and returns the sample or samples. */
export type Contender = () => Promise<number | readonly number[]>;

/**
 * Measures the contenders by turns, so that all of them meet the same moods of the
 * machine; every round begins with another one. Round -1 warms up and is not kept; a quick run
 * has none.
 */
export async function interleave(
  context: BenchmarkContext,
  rounds: number,
  contenders: Readonly<Record<string, Contender>>,
  onRoundEnd: () => void = () => undefined,
): Promise<void> {
  const entries = Object.entries(contenders);
  for (let round = context.quick ? 0 : -1; round < rounds; round++) {
    for (let turn = 0; turn < entries.length; turn++) {
      const [series, contender] = entries[(round + 1 + turn) % entries.length] as [
        string,
        Contender,
      ];
      const values = await contender();
      if (round >= 0) context.record(series, round, values);
    }
    onRoundEnd();
    if ((round + 1) % Math.ceil(rounds / 5) === 0) {
      context.progress(`round ${round + 1} of ${rounds}`);
    }
  }
}

/** Milliseconds that an action takes. */
export async function timed(action: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await action();
  return performance.now() - start;
}
