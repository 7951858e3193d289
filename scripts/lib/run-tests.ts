// The second part of `npm test`, on the project's own Node: for each project, sets the
// machine up as its tests require, runs them, and checks for leaks.
import { randomUUID } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { processIo, terminateWithNpm } from '@torpor/cli';
import { line, printStatus } from '@torpor/cli/testing';
import { TorporError } from '@torpor/protocol';
import { readHost, settledLeaks } from '@torpor/testkit/leaks';
import { assertOptions, type Counts, type Result, runProject } from './vitest.ts';

const LEAK_GRACE_MS = 10_000;

const io = processIo();
terminateWithNpm();
const [projects = '', ...filters] = process.argv.slice(2);
process.exit(await main(projects.split(','), filters));

async function main(projects: readonly string[], filters: readonly string[]): Promise<number> {
  try {
    await assertOptions(filters);
    const { leaks, failures, ...ran } = await runAll(projects, filters);
    // Last, where they are noticed first.
    for (const failure of [...failures, ...leaks]) await line(io.stdout, failure);
    const counts = { ...ran, failed: ran.failed + (leaks.length > 0 ? 1 : 0) };
    await publish(counts);
    if (ran.passed + ran.failed === 0) {
      printStatus(
        io,
        `no test of the projects ${projects.join(', ')} matches "${filters.join(' ')}"`,
      );
    }
    return counts.failed === 0 && counts.passed > 0 ? 0 : 1;
  } catch (reason) {
    const error = TorporError.from(reason);
    printStatus(io, error.message);
    if (error.remedy !== '') printStatus(io, error.remedy);
    return 1;
  }
}

interface Outcome extends Result {
  /** What tests left behind. */
  readonly leaks: string[];
}

async function runAll(projects: readonly string[], filters: readonly string[]): Promise<Outcome> {
  const marker = randomUUID();
  const reading = { environmentMarker: `TORPOR_TEST_RUN=${marker}` };
  const env: NodeJS.ProcessEnv = { ...process.env, TORPOR_TEST_RUN: marker };
  const total: Outcome = { passed: 0, failed: 0, skipped: 0, failures: [], leaks: [] };
  let isPrepared = false;
  for (const project of projects) {
    if (project !== 'unit' && !isPrepared) {
      const { prepareHost } = await import('./prepare-host.ts');
      Object.assign(env, await prepareHost(io));
      isPrepared = true;
    }
    const before = await readHost(reading);
    const result = await runProject({ project, arguments: filters, env, io });
    total.failures.push(...result.failures);
    total.passed += result.passed;
    total.failed += result.failed;
    total.skipped += result.skipped;
    const leaks = await settledLeaks(before, reading, LEAK_GRACE_MS);
    total.leaks.push(...leaks.map((leak) => `left behind by the ${project} tests: ${leak}`));
  }
  return total;
}

/** For `.ci/run`, which adds the static checks and prints the last line. */
async function publish(counts: Counts): Promise<void> {
  const path = process.env.TORPOR_TEST_RESULT;
  if (path !== undefined) await writeFile(path, `${JSON.stringify(counts)}\n`);
}
