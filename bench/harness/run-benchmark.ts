import { copyFileSync } from 'node:fs';
import { join } from 'node:path';
import type { SharedPlatform } from '../support/shared-platform.ts';
import type { Benchmark } from './benchmark.ts';
import { seriesSpec } from './benchmark.ts';
import { load, machineFacts, revision } from './machine.ts';
import { ResultWriter } from './result-file.ts';

export interface RunOptions {
  readonly quick: boolean;
  readonly cacheDir: string;
  /** Results are written to `<directory>/raw`; those to keep, to `<directory>` too. */
  readonly resultsDirectory: string;
  /** Replace the result that the report is made from. */
  readonly keep: boolean;
  readonly repository: string;
  readonly shared: SharedPlatform;
  readonly progress: (text: string) => void;
}

/** Runs a benchmark; returns the path of its result file. Samples from before a failure stay there. */
export async function runBenchmark(benchmark: Benchmark, options: RunOptions): Promise<string> {
  const startedAt = new Date();
  const stamp = startedAt.toISOString().replaceAll(/[:.]/g, '-');
  const raw = join(options.resultsDirectory, 'raw', `${benchmark.name}-${stamp}.jsonl`);
  const writer = new ResultWriter(raw);
  writer.write({
    kind: 'run',
    benchmark: benchmark.name,
    quick: options.quick,
    startedAt: startedAt.toISOString(),
    revision: await revision(options.repository),
    machine: await machineFacts(),
    loadAverage: load(),
  });
  await benchmark.run({
    quick: options.quick,
    cacheDir: options.cacheDir,
    shared: options.shared,
    record(series, round, values) {
      seriesSpec(benchmark, series);
      const list = typeof values === 'number' ? [values] : values;
      writer.write({ kind: 'sample', series, round, values: list.map(toPrecision) });
    },
    note: (text) => writer.write({ kind: 'note', text }),
    progress: (text) => options.progress(`${benchmark.name}: ${text}`),
  });
  writer.write({ kind: 'end', finishedAt: new Date().toISOString(), loadAverage: load() });
  if (!options.keep) return raw;
  const kept = join(options.resultsDirectory, `${benchmark.name}.jsonl`);
  copyFileSync(raw, kept);
  return kept;
}

/** Five significant digits: more than any sample is repeatable to. */
function toPrecision(value: number): number {
  return Number(value.toPrecision(5));
}
