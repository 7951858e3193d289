import type { RunResult } from './result-file.ts';
import { median, pairedRatio, type Ratio, type Spread, spread } from './statistics.ts';

/** The samples of a run, by series. */
export class Measurements {
  readonly #series = new Map<string, Map<number, number[]>>();

  constructor(samples: RunResult['samples']) {
    for (const { series, round, values } of samples) {
      const rounds = this.#series.get(series) ?? new Map<number, number[]>();
      rounds.set(round, [...(rounds.get(round) ?? []), ...values]);
      this.#series.set(series, rounds);
    }
  }

  /** Names, in the order of their first sample. */
  get names(): readonly string[] {
    return [...this.#series.keys()];
  }

  has(series: string): boolean {
    return this.#series.has(series);
  }

  /** Of all samples. Throws for a series without any. */
  spread(series: string): Spread {
    return spread([...this.#rounds(series).values()].flat());
  }

  median(series: string): number {
    return this.spread(series).median;
  }

  /** Of the medians of the rounds. */
  ratio(of: string, to: string): Ratio {
    return pairedRatio(this.#medians(of), this.#medians(to));
  }

  #medians(series: string): Map<number, number> {
    return new Map([...this.#rounds(series)].map(([round, values]) => [round, median(values)]));
  }

  #rounds(series: string): ReadonlyMap<number, readonly number[]> {
    const rounds = this.#series.get(series);
    if (rounds === undefined) throw new RangeError(`The series ${series} has no samples.`);
    return rounds;
  }
}
