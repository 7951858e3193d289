import type { SharedPlatform } from '../support/shared-platform.ts';
import type { Measurements } from './measurements.ts';

/** A series of samples of one thing, measured in rounds. */
export interface SeriesSpec {
  /** What is measured, for the report. */
  readonly title: string;
  readonly unit: Unit;
}

export type Unit = 'ms' | 'µs' | 'MiB/s' | 'MiB' | 'ratio' | 'count' | '1/s';

/** A ratio of two series that were measured in the same rounds. */
export interface Comparison {
  readonly title: string;
  /** The numerator and the denominator. */
  readonly of: string;
  readonly to: string;
  /** The target of the ratio. */
  readonly aim?: { readonly atMost: number } | { readonly atLeast: number };
  /** Measured only if the benchmark is given something to compare with. */
  readonly isOptional?: boolean;
}

/** A part of the cost of an operation, and how it was determined. */
export interface Cost {
  readonly title: string;
  readonly value: number;
  readonly unit: Unit;
  /** Which series were subtracted, or what was read. */
  readonly how: string;
}

/** The parts of one operation's time or memory. */
export interface CostTable {
  readonly title: string;
  readonly costs: readonly Cost[];
}

/** The environment of a benchmark. */
export interface BenchmarkContext {
  /** A short run, which only shows that the benchmark works. */
  readonly quick: boolean;
  /** Kernel, images and compiled helpers. */
  readonly cacheDir: string;
  /** For benchmarks that need no separate platform. */
  readonly shared: SharedPlatform;
  /** Records samples of a series of {@link Benchmark.series}; several values of one round belong to one measurement. */
  record(series: string, round: number, values: number | readonly number[]): void;
  /** Records a remark about the results. */
  note(text: string): void;
  /** Prints the progress. */
  progress(text: string): void;
}

export interface Benchmark {
  /** `[a-z-]+`; also the name of the result file. */
  readonly name: string;
  readonly title: string;
  /** What is measured and how: a paragraph for the report. */
  readonly method: string;
  /** By name. A name with `*` at the end matches all series with that prefix. */
  readonly series: Readonly<Record<string, SeriesSpec>>;
  readonly comparisons: readonly Comparison[];
  /** The breakdown of the cost; the report names the largest of each table. */
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
