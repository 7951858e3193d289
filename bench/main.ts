import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { terminateWithNpm } from '@torpor/cli';
import type { Benchmark } from './harness/benchmark.ts';
import { Measurements } from './harness/measurements.ts';
import { comparable, formatAim, formatRatio, renderReport } from './harness/report.ts';
import { readResult } from './harness/result-file.ts';
import { runBenchmark } from './harness/run-benchmark.ts';
import { BENCHMARKS } from './registry.ts';
import { SharedPlatform } from './support/shared-platform.ts';

const REPOSITORY = fileURLToPath(new URL('../', import.meta.url));
const RESULTS = join(REPOSITORY, 'bench/results');
const REPORT = join(REPOSITORY, 'docs/performance.md');

const USAGE = `usage: npm run bench -- [NAME...] [options]

  --list     the benchmarks
  --all      run all of them
  --quick    a short form, which shows only that they work
  --keep     replace the results that the report is made from
  --report   write docs/performance.md from the kept results
  --json     print what --list, or a run, has to say as JSON lines
`;

interface Options {
  readonly list?: boolean;
  readonly all?: boolean;
  readonly quick?: boolean;
  readonly keep?: boolean;
  readonly report?: boolean;
  readonly json?: boolean;
}

terminateWithNpm();
process.exitCode = await main(process.argv.slice(2));

async function main(args: string[]): Promise<number> {
  let names: string[];
  let options: Options;
  try {
    ({ positionals: names, values: options } = parseArgs({
      args,
      allowPositionals: true,
      options: {
        list: { type: 'boolean' },
        all: { type: 'boolean' },
        quick: { type: 'boolean' },
        keep: { type: 'boolean' },
        report: { type: 'boolean' },
        json: { type: 'boolean' },
      },
    }));
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n${USAGE}`);
    return 2;
  }
  const unknown = names.filter((name) => !BENCHMARKS.some((known) => known.name === name));
  if (unknown.length > 0) {
    process.stderr.write(`There is no benchmark ${unknown.join(', ')}; see --list.\n`);
    return 2;
  }
  const chosen = options.all ? BENCHMARKS : BENCHMARKS.filter(({ name }) => names.includes(name));
  if (options.list) list(options.json === true);
  else if (chosen.length === 0 && !options.report) {
    process.stderr.write(USAGE);
    return 2;
  }
  await using shared = new SharedPlatform();
  for (const benchmark of chosen) await run(benchmark, options, shared);
  if (options.report) await report();
  return 0;
}

function list(json: boolean): void {
  for (const { name, title } of BENCHMARKS) {
    process.stdout.write(json ? `${JSON.stringify({ name, title })}\n` : `${name}\t${title}\n`);
  }
}

async function run(
  benchmark: Benchmark,
  { quick, keep, json }: Options,
  shared: SharedPlatform,
): Promise<void> {
  const path = await runBenchmark(benchmark, {
    quick: quick === true,
    keep: keep === true,
    cacheDir: process.env.TORPOR_CACHE_DIR ?? '/var/lib/torpor',
    resultsDirectory: RESULTS,
    repository: REPOSITORY,
    shared,
    progress: (text) => process.stderr.write(`${text}\n`),
  });
  const measured = new Measurements(readResult(path).samples);
  const ratios = comparable(benchmark, measured).map((comparison) => ({
    title: comparison.title,
    ...measured.ratio(comparison.of, comparison.to),
    comparison,
  }));
  const costs = benchmark.costs(measured);
  if (json) {
    const series = Object.fromEntries(measured.names.map((name) => [name, measured.spread(name)]));
    const plain = ratios.map(({ comparison, ...ratio }) => ({ ...ratio, aim: comparison.aim }));
    const line = { benchmark: benchmark.name, result: path, series, ratios: plain, costs };
    process.stdout.write(`${JSON.stringify(line)}\n`);
    return;
  }
  for (const { title, comparison, ...ratio } of ratios) {
    const message = `${title}: ${formatRatio(ratio)}; aim ${formatAim(comparison, ratio)}`;
    process.stdout.write(`${message}\n`);
  }
  for (const { title, costs: parts } of costs) {
    process.stdout.write(`${title}:\n`);
    for (const part of parts.toSorted((a, b) => b.value - a.value)) {
      process.stdout.write(`  ${part.value.toPrecision(3)} ${part.unit}\t${part.title}\n`);
    }
  }
  process.stdout.write(`${path}\n`);
}

async function report(): Promise<void> {
  const entries = BENCHMARKS.map((benchmark) => ({
    benchmark,
    path: join(RESULTS, `${benchmark.name}.jsonl`),
  }))
    .filter(({ path }) => existsSync(path))
    .map(({ benchmark, path }) => ({ benchmark, result: readResult(path) }));
  await writeFile(REPORT, renderReport(entries));
  process.stdout.write(`${REPORT}\n`);
}
