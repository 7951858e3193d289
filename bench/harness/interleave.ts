import type { BenchmarkContext } from './benchmark.ts';

/** One of the compared operations: runs once, and returns the sample or samples. */
export type Contender = () => Promise<number | readonly number[]>;

/**
 * Measures the contenders alternately, so that variations of the machine affect all of them;
 * every round starts with another one. Round -1 is a warm-up and is not recorded; a quick run
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
