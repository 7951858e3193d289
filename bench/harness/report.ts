import { type Benchmark, type Comparison, type CostTable, seriesSpec } from './benchmark.ts';
import { Measurements } from './measurements.ts';
import type { RunResult } from './result-file.ts';
import type { Ratio } from './statistics.ts';

export interface ReportEntry {
  readonly benchmark: Benchmark;
  readonly result: RunResult;
}

/** Renders `docs/performance.md` from the kept results. */
export function renderReport(entries: readonly ReportEntry[]): string {
  const parts = [
    '# Performance',
    'Written by `npm run bench -- --report` from the raw samples in `bench/results/`; do not edit. ' +
      'Figures of one machine say little about another, so what counts here are ratios: the things ' +
      'compared were measured in the same run, by turns, and each ratio is the median over the ' +
      'rounds of the ratio within a round, with a 95 % bootstrap interval over the rounds. ' +
      'Times are medians with their quartiles.',
    renderSummary(entries),
    ...entries.map(renderEntry),
    '## How to repeat it',
    '```\nnpm run bench -- --list\nnpm run bench -- exec            # one benchmark; results/raw/ keeps each run\n' +
      'npm run bench -- --all --keep    # all of them, replacing the kept results\nnpm run bench -- --report        # writes this page\n```',
  ];
  return `${parts.join('\n\n')}\n`;
}

function renderSummary(entries: readonly ReportEntry[]): string {
  const rows = entries.flatMap(({ benchmark, result }) => {
    const measured = new Measurements(result.samples);
    return comparable(benchmark, measured).map((comparison) => {
      const ratio = measured.ratio(comparison.of, comparison.to);
      return [benchmark.name, comparison.title, formatRatio(ratio), formatAim(comparison, ratio)];
    });
  });
  return table(['benchmark', 'ratio', 'median (95 %)', 'aim'], rows);
}

function renderEntry({ benchmark, result }: ReportEntry): string {
  const measured = new Measurements(result.samples);
  const { run, end } = result;
  const { machine } = run;
  const facts =
    `${run.quick ? '**A quick run, which shows only that it works.** ' : ''}` +
    `Revision ${run.revision}, ${run.startedAt.slice(0, 10)}; ${machine.processors} × ${machine.processor} ` +
    `(${machine.virtualised}), ${machine.memoryMiB} MiB, Linux ${machine.kernel}, Node ${machine.node}, ` +
    `QEMU ${machine.qemu}; load average ${run.loadAverage[0]} at the start, ${end.loadAverage[0]} at the end.` +
    (isBusy(result)
      ? ' **The machine was busy with other work: the times say nothing, and the ratios are those of a machine under load.**'
      : '');
  const comparisons = comparable(benchmark, measured);
  const parts = [`## ${benchmark.title}`, benchmark.method, facts];
  if (comparisons.length > 0) {
    const rows = comparisons.map((comparison) => {
      const ratio = measured.ratio(comparison.of, comparison.to);
      return [
        comparison.title,
        formatRatio(ratio),
        String(ratio.rounds),
        formatAim(comparison, ratio),
      ];
    });
    parts.push(table(['ratio', 'median (95 %)', 'rounds', 'aim'], rows));
  }
  const rows = measured.names.map((name) => {
    const { title, unit } = seriesSpec(benchmark, name);
    const { median, lowerQuartile, upperQuartile, count } = measured.spread(name);
    const quartiles = `${format(lowerQuartile)} – ${format(upperQuartile)}`;
    return [title, `${format(median)} ${unit}`, quartiles, String(count)];
  });
  parts.push(table(['measured', 'median', 'quartiles', 'samples'], rows));
  for (const costs of benchmark.costs(measured)) parts.push(renderCosts(costs));
  if (result.notes.length > 0) parts.push(result.notes.map((note) => `- ${note}`).join('\n'));
  return parts.join('\n\n');
}

function renderCosts({ title, costs }: CostTable): string {
  const sorted = costs.toSorted((a, b) => b.value - a.value);
  const [largest] = sorted;
  if (largest === undefined) return '';
  const total = sorted.reduce((sum, { value }) => sum + Math.max(0, value), 0);
  const rows = sorted.map(({ title: part, value, unit, how }) => [
    part,
    `${format(value)} ${unit}`,
    `${Math.round((100 * Math.max(0, value)) / total)} %`,
    how,
  ]);
  return (
    `**${title}: the largest cost is ${largest.title}** ` +
    `(${format(largest.value)} ${largest.unit}, ${Math.round((100 * largest.value) / total)} %).\n\n` +
    table(['part', 'cost', 'share', 'how it was determined'], rows)
  );
}

/** Whether other programs used more than half a processor, beyond the benchmark itself. */
function isBusy({ run, end }: RunResult): boolean {
  const limit = run.machine.processors + 0.5;
  return [run, end].some(({ loadAverage }) => (loadAverage[0] ?? 0) > limit);
}

/** The comparisons for which both sides were measured. */
export function comparable(benchmark: Benchmark, measured: Measurements): readonly Comparison[] {
  return benchmark.comparisons.filter(({ of, to }) => measured.has(of) && measured.has(to));
}

export function formatRatio({ median, low, high }: Ratio): string {
  return `${format(median)} (${format(low)} – ${format(high)})`;
}

/** The target, and whether it was met. */
export function formatAim({ aim }: Comparison, { median }: Ratio): string {
  if (aim === undefined) return '–';
  if ('atMost' in aim) return `≤ ${aim.atMost}: ${median <= aim.atMost ? 'met' : 'missed'}`;
  return `≥ ${aim.atLeast}: ${median >= aim.atLeast ? 'met' : 'missed'}`;
}

/** Three significant digits, without exponents. */
function format(value: number): string {
  if (Math.abs(value) >= 1000) return String(Math.round(value));
  return String(Number(value.toPrecision(3)));
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n');
}
