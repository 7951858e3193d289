import { appendFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { z } from 'zod';

/*
 * A result file is JSON lines: the run and the machine, then every sample as it was measured,
 * then the state at the end. The whole report is computed from these lines.
 */

const machineSchema = z.strictObject({
  processor: z.string(),
  processors: z.int(),
  memoryMiB: z.int(),
  kernel: z.string(),
  node: z.string(),
  qemu: z.string(),
  virtualised: z.string(),
});

const lineSchema = z.discriminatedUnion('kind', [
  z.strictObject({
    kind: z.literal('run'),
    benchmark: z.string(),
    quick: z.boolean(),
    startedAt: z.iso.datetime(),
    revision: z.string(),
    machine: machineSchema,
    /** One, five and fifteen minutes. */
    loadAverage: z.array(z.number()).length(3),
  }),
  z.strictObject({
    kind: z.literal('sample'),
    series: z.string(),
    round: z.int(),
    values: z.array(z.number()).min(1),
  }),
  z.strictObject({ kind: z.literal('note'), text: z.string() }),
  z.strictObject({
    kind: z.literal('end'),
    finishedAt: z.iso.datetime(),
    loadAverage: z.array(z.number()).length(3),
  }),
]);

export type ResultLine = z.infer<typeof lineSchema>;
export type RunLine = Extract<ResultLine, { kind: 'run' }>;
export type MachineFacts = z.infer<typeof machineSchema>;

/** The result of a complete run. */
export interface RunResult {
  readonly run: RunLine;
  readonly samples: readonly Extract<ResultLine, { kind: 'sample' }>[];
  readonly notes: readonly string[];
  readonly end: Extract<ResultLine, { kind: 'end' }>;
}

/** Appends lines immediately, so that a run that fails keeps its samples. */
export class ResultWriter {
  readonly path: string;

  /** Replaces an existing file. */
  constructor(path: string) {
    this.path = path;
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, '');
  }

  write(line: ResultLine): void {
    appendFileSync(this.path, `${JSON.stringify(lineSchema.parse(line))}\n`);
  }
}

/** Reads a result file. Throws an Error that names the file if it is damaged or its run did not finish. */
export function readResult(path: string): RunResult {
  const lines = readFileSync(path, 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line, index) => {
      try {
        return lineSchema.parse(JSON.parse(line));
      } catch (cause) {
        throw new Error(`${path}:${index + 1} is not a line of a benchmark's result.`, { cause });
      }
    });
  const run = lines[0];
  const end = lines.at(-1);
  if (run?.kind !== 'run' || end?.kind !== 'end') {
    throw new Error(`${path} is not the result of a whole run.`);
  }
  return {
    run,
    end,
    samples: lines.filter((line) => line.kind === 'sample'),
    notes: lines.filter((line) => line.kind === 'note').map((line) => line.text),
  };
}
