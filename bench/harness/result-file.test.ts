import { appendFile, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { Benchmark } from './benchmark.ts';
import { renderReport } from './report.ts';
import { type ResultLine, ResultWriter, readResult } from './result-file.ts';

const RUN: ResultLine = {
  kind: 'run',
  benchmark: 'pair',
  quick: false,
  startedAt: '2026-11-22T03:00:00.000Z',
  revision: '0123456789ab',
  machine: {
    processor: 'a processor',
    processors: 2,
    memoryMiB: 1024,
    kernel: '6.12',
    node: 'v26',
    qemu: '10.0',
    virtualised: 'none',
  },
  loadAverage: [0.5, 0.5, 0.5],
};
const END: ResultLine = {
  kind: 'end',
  finishedAt: '2026-11-22T03:01:00.000Z',
  loadAverage: [0.6, 0.5, 0.5],
};
const PAIR: Benchmark = {
  name: 'pair',
  title: 'A pair',
  method: 'Two things.',
  series: {
    slow: { title: 'the slow one', unit: 'ms' },
    fast: { title: 'the fast one', unit: 'ms' },
  },
  comparisons: [{ title: 'slow ÷ fast', of: 'slow', to: 'fast', aim: { atMost: 1.5 } }],
  costs: (measured) => [
    {
      title: 'The slow one',
      costs: [
        { title: 'walking', value: measured.median('fast'), unit: 'ms', how: 'the fast one' },
        { title: 'resting', value: 30, unit: 'ms', how: 'slow − fast' },
      ],
    },
  ],
  run: () => Promise.reject(new Error('not run here')),
};

let directory: string;
let path: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'torpor-results-'));
  path = join(directory, 'pair.jsonl');
});
afterEach(() => rm(directory, { recursive: true }));

function writePair(): void {
  const writer = new ResultWriter(path);
  writer.write(RUN);
  for (const round of [0, 1, 2]) {
    writer.write({ kind: 'sample', series: 'slow', round, values: [20 * (round + 1)] });
    writer.write({ kind: 'sample', series: 'fast', round, values: [10 * (round + 1)] });
  }
  writer.write({ kind: 'note', text: 'It rained.' });
  writer.write(END);
}

test('the report has the ratio, the target, the largest cost, and the notes', () => {
  writePair();
  const report = renderReport([{ benchmark: PAIR, result: readResult(path) }]);
  expect(report).toContain('| pair | slow ÷ fast | 2 (2 – 2) | ≤ 1.5: missed |');
  expect(report).toContain('**The slow one: the largest cost is resting** (30 ms, 60 %).');
  expect(report).toContain('| the slow one | 40 ms | 30 – 50 | 3 |');
  expect(report).toContain('- It rained.');
});

test('a run that did not finish is not a result', () => {
  const writer = new ResultWriter(path);
  writer.write(RUN);
  writer.write({ kind: 'sample', series: 'slow', round: 0, values: [1] });
  expect(() => readResult(path)).toThrow(/pair\.jsonl is not the result of a whole run/);
});

test('a damaged line is named', async () => {
  writePair();
  await appendFile(path, '{"kind":"sample"}\n');
  expect(() => readResult(path)).toThrow(/pair\.jsonl:10 is not a line/);
});
