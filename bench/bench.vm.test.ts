import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { DEFAULT_DISK_MIB } from '@torpor/agent/testing';
import { openDataDirWithBoots } from '@torpor/testkit/guests';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Measurements } from './harness/measurements.ts';
import { comparable, renderReport } from './harness/report.ts';
import { readResult } from './harness/result-file.ts';
import { runBenchmark } from './harness/run-benchmark.ts';
import { BENCHMARKS } from './registry.ts';
import { SharedPlatform } from './support/shared-platform.ts';

/* Tests that every benchmark runs, not how fast anything is. */

const CACHE_DIR = process.env.TORPOR_CACHE_DIR ?? '/var/lib/torpor';

/** For several boots of emulated machines that share two processors with others. */
const SLOW = 20 * 60_000;

let directory: string;
let shared: SharedPlatform;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'torpor-bench-results-'));
  const shapes = [512, 1024].map((memoryMiB) => ({
    vcpus: 1,
    memoryMiB,
    diskMiB: DEFAULT_DISK_MIB,
  }));
  shared = new SharedPlatform(() => openDataDirWithBoots(CACHE_DIR, ...shapes));
});
afterAll(async () => {
  await shared[Symbol.asyncDispose]();
  await rm(directory, { recursive: true });
});

describe.each(BENCHMARKS)('$name', (benchmark) => {
  test('measures all that it compares, and writes a report', { timeout: SLOW }, async () => {
    const path = await runBenchmark(benchmark, {
      quick: true,
      keep: false,
      cacheDir: CACHE_DIR,
      resultsDirectory: directory,
      repository: fileURLToPath(new URL('../', import.meta.url)),
      shared,
      progress: () => undefined,
    });
    const result = readResult(path);
    expect(result.run).toMatchObject({ benchmark: benchmark.name, quick: true });
    const measured = new Measurements(result.samples);
    const comparisons = benchmark.comparisons.filter(({ isOptional }) => !isOptional);
    expect(comparable(benchmark, measured)).toEqual(comparisons);
    for (const { of, to } of comparisons) {
      expect(measured.ratio(of, to).median).toBeGreaterThan(0);
    }
    for (const { costs } of benchmark.costs(measured)) expect(costs).not.toEqual([]);
    const report = renderReport([{ benchmark, result }]);
    expect(report).toContain(`## ${benchmark.title}`);
    expect(report).not.toContain('NaN');
    expect(existsSync(join(directory, `${benchmark.name}.jsonl`))).toBe(false);
  });
});
