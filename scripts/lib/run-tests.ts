// The second half of `npm test`, on the project's own Node: set the machine up,
// make the guest artefacts, run the tests without and then with virtual machines,
// and look for what they left behind.
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { kernelArguments } from '@torpor/images';
import { TorporError } from '@torpor/protocol';
import { findQemu, probeAccelerator } from '@torpor/vmm';
import { setUpHost, setupReport } from '../../packages/cli/src/host-setup/index.ts';
import { processIo } from '../../packages/cli/src/io.ts';
import { news } from '../../packages/cli/src/output/progress.ts';
import { openImageStore } from '../../packages/cli/src/platform/images.ts';
import { watchNpm } from '../../packages/cli/src/platform/npm-parent.ts';
import { prepareGuest } from '../../packages/cli/src/platform/prepare-guest.ts';
import {
  cacheDirectory,
  DEFAULT_DATA_DIR,
  forcedAccelerator,
} from '../../packages/cli/src/platform/settings.ts';
import { readHost, settledLeaks } from '../../tests/support/leak-check.ts';

const VITEST = fileURLToPath(new URL('../../node_modules/vitest/vitest.mjs', import.meta.url));
const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));
/** Longer than both projects have ever needed; beyond it something hangs. */
const PROJECT_TIMEOUT_MS = 30 * 60_000;
const LEAK_GRACE_MS = 10_000;
const PROJECTS = ['unit', 'vm'] as const;

interface Counts {
  passed: number;
  failed: number;
  skipped: number;
}

const io = processIo();
watchNpm(() => process.kill(process.pid, 'SIGTERM'));
process.exit(await main(process.argv.slice(2)));

async function main(vitestArguments: readonly string[]): Promise<number> {
  try {
    await setUpHost({ report: setupReport(io) });
    const cacheDir = cacheDirectory(DEFAULT_DATA_DIR, process.env);
    const artifacts = await prepareGuest(io, cacheDir, openImageStore(cacheDir, cacheDir));
    // Once for all tests: each has a data directory of its own, and would probe anew.
    const { accelerator, reason } = await probeAccelerator({
      qemu: await findQemu(),
      kernelPath: artifacts.kernel.qemuPath,
      kernelArguments: kernelArguments(),
      stateDirectory: cacheDir,
      forced: forcedAccelerator(process.env),
      onProbe: () => news(io, 'booting a guest under KVM and in emulation, to use the faster'),
    });
    news(io, `the tests run under ${accelerator}: ${reason}`);
    const counts = await runAll(cacheDir, accelerator, vitestArguments);
    await publish(counts);
    return counts.failed === 0 && counts.passed > 0 ? 0 : 1;
  } catch (reason) {
    const error = TorporError.from(reason);
    news(io, error.message);
    if (error.remedy !== '') news(io, error.remedy);
    return 1;
  }
}

async function runAll(
  cacheDir: string,
  accelerator: string,
  vitestArguments: readonly string[],
): Promise<Counts> {
  const marker = randomUUID();
  const reading = { environmentMarker: `TORPOR_TEST_RUN=${marker}` };
  const env = {
    ...process.env,
    TORPOR_TEST_RUN: marker,
    TORPOR_CACHE_DIR: cacheDir,
    TORPOR_ACCELERATOR: accelerator,
  };
  const total: Counts = { passed: 0, failed: 0, skipped: 0 };
  for (const project of PROJECTS) {
    const before = await readHost(reading);
    const counts = await runProject(project, vitestArguments, env);
    total.passed += counts.passed;
    total.failed += counts.failed;
    total.skipped += counts.skipped;
    const leaks = await settledLeaks(before, reading, LEAK_GRACE_MS);
    for (const leak of leaks) news(io, `left behind by the ${project} tests: ${leak}`);
    if (leaks.length > 0) total.failed += 1;
  }
  return total;
}

/** Runs one project of vitest; what it prints is shown, what it counts comes from its JSON report. */
async function runProject(
  project: string,
  vitestArguments: readonly string[],
  env: NodeJS.ProcessEnv,
): Promise<Counts> {
  const directory = await mkdtemp(join(tmpdir(), 'vitest-report-'));
  try {
    const report = join(directory, 'report.json');
    const status = await runVitest(
      [
        'run',
        '--project',
        project,
        '--passWithNoTests',
        '--reporter=default',
        '--reporter=json',
        `--outputFile.json=${report}`,
        ...vitestArguments,
      ],
      env,
    );
    const counts = countTests(await readFile(report, 'utf8').catch(() => ''));
    // A file that does not load, or an error outside any test, fails no test by name.
    if (status !== 0 && counts.failed === 0) return { ...counts, failed: 1 };
    return counts;
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

function runVitest(args: readonly string[], env: NodeJS.ProcessEnv): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [VITEST, ...args], {
      cwd: REPOSITORY,
      env,
      stdio: ['ignore', 'inherit', 'inherit'],
      timeout: PROJECT_TIMEOUT_MS,
    });
    const unsubscribe = io.onSignal((signal) => void child.kill(signal));
    child.on('error', reject);
    child.on('close', (code) => {
      unsubscribe();
      resolve(code ?? 1);
    });
  });
}

function countTests(text: string): Counts {
  if (text === '') return { passed: 0, failed: 0, skipped: 0 };
  const report: unknown = JSON.parse(text);
  const number = (name: string): number => {
    const value = (report as Record<string, unknown>)[name];
    return typeof value === 'number' ? value : 0;
  };
  return {
    passed: number('numPassedTests'),
    failed: number('numFailedTests'),
    skipped: number('numPendingTests') + number('numTodoTests'),
  };
}

/** For `.ci/run`, which adds the static checks and prints the last line. */
async function publish(counts: Counts): Promise<void> {
  const path = process.env.TORPOR_TEST_RESULT;
  if (path !== undefined) await writeFile(path, `${JSON.stringify(counts)}\n`);
}
