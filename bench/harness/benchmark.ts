import type { SharedPlatform } from '../support/shared-platform.ts';
import type { Measurements } from './measurements.ts';

/** A series of samples of one thing, measured in rounds. */
export interface SeriesSpec {
  /** What is measured, for readers. */
  readonly title: string;
  readonly unit: Unit;
}

export type Unit = 'ms' | 'µs' | 'MiB/s' | 'MiB' | 'ratio' | 'count';

/** A ratio of two series that were measured in the same rounds. */
export interface Comparison {
  readonly title: string;
  /** Series above the line, and below it. */
  readonly of: string;
  readonly to: string;
  /** What the ratio is wanted to be. */
  readonly aim?: { readonly atMost: number } | { readonly atLeast: number };
  /** Measured only where the benchmark is told of something to compare with. */
  readonly isOptional?: boolean;
}

/** A part of what an operation costs, and how it is known. */
export interface Cost {
  readonly title: string;
  readonly value: number;
  readonly unit: Unit;
  /** How it was determined: which series were subtracted, or what was read. */
  readonly how: string;
}

/** What one operation's time or memory consists of. */
export interface CostTable {
  readonly title: string;
  readonly costs: readonly Cost[];
}

/** What a benchmark gets to work with. */
export interface BenchmarkContext {
  /** A short form: it shows that the benchmark works, not how fast anything is. */
  readonly quick: boolean;
  /** Kernel, images and compiled helpers. */
  readonly cacheDir: string;
  /** For benchmarks that need no platform of their own. */
  readonly shared: SharedPlatform;
  /** Keeps samples of a series of {@link Benchmark.series}; several values of one round are one measurement's. */
  record(series: string, round: number, values: number | readonly number[]): void;
  /** Keeps a sentence that belongs to the results. */
  note(text: string): void;
  /** Tells a waiting person what happens. */
  progress(text: string): void;
}

export interface Benchmark {
  /** `[a-z-]+`; names the result file too. */
  readonly name: string;
  readonly title: string;
  /** What is measured and how: a paragraph for the report. */
  readonly method: string;
  /** By name. A name may end in `*`: then it stands for all series that start so. */
  readonly series: Readonly<Record<string, SeriesSpec>>;
  readonly comparisons: readonly Comparison[];
  /** Where it goes; the report names the largest of each table. */
  costs(measured: Measurements): readonly CostTable[];
  run(context: BenchmarkContext): Promise<void>;
}

/** The spec of a series, also of one whose name matches a pattern. Throws for an unknown one. */
export function seriesSpec(benchmark: Benchmark, series: string): SeriesSpec {
  const exact = benchmark.series[series];
  if (exact !== undefined) return exact;
  for (const [pattern, spec] of Object.entries(benchmark.series)) {
    if (pattern.endsWith('*') && series.startsWith(pattern.slice(0, -1))) {
      return { ...spec, title: `${spec.title}: ${series.slice(pattern.length - 1)}` };
    }
  }
  throw new Error(`The benchmark ${benchmark.name} has no series ${series}.`);
}
