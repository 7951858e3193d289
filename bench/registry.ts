import { boot } from './boot/boot.ts';
import { cliStart } from './cli-start/cli-start.ts';
import { exec } from './exec/exec.ts';
import { files } from './files/files.ts';
import { forks } from './forks/forks.ts';
import type { Benchmark } from './harness/benchmark.ts';
import { idleMemory } from './idle-memory/idle-memory.ts';
import { lifecycle } from './lifecycle/lifecycle.ts';
import { pageFaults } from './page-faults/page-faults.ts';
import { restore } from './restore/restore.ts';
import { fleet } from './scale/fleet.ts';
import { history } from './scale/history.ts';

/** All benchmarks, in the order of the report. */
export const BENCHMARKS: readonly Benchmark[] = [
  exec,
  files,
  boot,
  idleMemory,
  lifecycle,
  pageFaults,
  restore,
  forks,
  cliStart,
  history,
  fleet,
];
