import { exec } from './exec/exec.ts';
import { files } from './files/files.ts';
import type { Benchmark } from './harness/benchmark.ts';

/** All benchmarks, in the order of the report. */
export const BENCHMARKS: readonly Benchmark[] = [exec, files];
