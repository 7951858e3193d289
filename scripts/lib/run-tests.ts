// The second half of `npm test`, on the project's own Node: set the machine up,
// make the guest artefacts, run the tests without and then with virtual machines,
// and look for what they left behind.
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  line,
  news,
  openImageStore,
  prepareGuest,
  processIo,
  setUpHost,
  setupReport,
  terminateWithNpm,
} from '@torpor/cli/testing';
import { loadConfig } from '@torpor/control-plane/config';
import { kernelArguments } from '@torpor/images';
import { TorporError } from '@torpor/protocol';
import { findQemu, probeAccelerator } from '@torpor/vmm';
import { z } from 'zod';
import { readHost, settledLeaks } from '../../tests/support/leak-check.ts';

const VITEST = fileURLToPath(new URL('../../node_modules/vitest/vitest.mjs', import.meta.url));
const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));
/** Longer than both projects have ever needed; beyond it something hangs. */
const PROJECT_TIMEOUT_MS = 30 * 60_000;
const LEAK_GRACE_MS = 10_000;
const PROJECTS = ['unit', 'vm'] as const;

/** What vitest's JSON reporter writes, as far as it is read here. */
const reportSchema = z.object({
  numPassedTests: z.int(),
  numFailedTests: z.int(),
  numPendingTests: z.int(),
  numTodoTests: z.int(),
  testResults: z.array(
    z.object({
      name: z.string(),
      status: z.string(),
      assertionResults: z.array(z.object({ fullName: z.string(), status: z.string() })),
    }),
  ),
});

interface Counts {
  passed: number;
  failed: number;
  skipped: number;
}

interface Result extends Counts {
  /** What failed, each with its file: printed last, where everybody looks first. */
  failures: string[];
}

const io = processIo();
terminateWithNpm();
process.exit(await main(process.argv.slice(2)));

async function main(vitestArguments: readonly string[]): Promise<number> {
  try {
    await setUpHost({ report: setupReport(io) });
    const { config } = await loadConfig({ env: process.env });
    const { cacheDir } = config;
    const artifacts = await prepareGuest(io, cacheDir, openImageStore(cacheDir, cacheDir));
    // Once for all tests: each has a data directory of its own, and would probe anew.
    const { accelerator, reason } = await probeAccelerator({
      qemu: await findQemu(config.qemu),
      kernelPath: artifacts.kernel.qemuPath,
      kernelArguments: kernelArguments(),
      stateDirectory: cacheDir,
      forced: config.accelerator === 'auto' ? undefined : config.accelerator,
      onProbe: () => news(io, 'booting a guest under KVM and in emulation, to use the faster'),
    });
    news(io, `the tests run under ${accelerator}: ${reason}`);
    const { failures, ...counts } = await runAll(cacheDir, accelerator, vitestArguments);
    for (const failure of failures) await line(io.stdout, failure);
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
): Promise<Result> {
  const marker = randomUUID();
  const reading = { environmentMarker: `TORPOR_TEST_RUN=${marker}` };
  const env = {
    ...process.env,
    TORPOR_TEST_RUN: marker,
    TORPOR_CACHE_DIR: cacheDir,
    TORPOR_ACCELERATOR: accelerator,
  };
  const total: Result = { passed: 0, failed: 0, skipped: 0, failures: [] };
  for (const project of PROJECTS) {
    const before = await readHost(reading);
    const counts = await runProject(project, vitestArguments, env);
    total.failures.push(...counts.failures);
    total.passed += counts.passed;
    total.failed += counts.failed;
    total.skipped += counts.skipped;
    const leaks = await settledLeaks(before, reading, LEAK_GRACE_MS);
    total.failures.push(...leaks.map((leak) => `left behind by the ${project} tests: ${leak}`));
    if (leaks.length > 0) total.failed += 1;
  }
  return total;
}

/** Runs one project of vitest; what it prints is shown, what it counts comes from its JSON report. */
async function runProject(
  project: string,
  vitestArguments: readonly string[],
  env: NodeJS.ProcessEnv,
): Promise<Result> {
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
    const result = readReport(await readFile(report, 'utf8').catch(() => ''));
    if (status === 0 || result.failed > 0) return result;
    // A file that does not load, or an error outside any test, fails no test by name.
    const failures = [...result.failures, `failed: the ${project} tests, with status ${status}`];
    return { ...result, failed: 1, failures };
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

function readReport(text: string): Result {
  if (text === '') return { passed: 0, failed: 0, skipped: 0, failures: [] };
  const report = reportSchema.parse(JSON.parse(text));
  const failures = report.testResults.flatMap(({ name, status, assertionResults }) => {
    const file = relative(REPOSITORY, name);
    const tests = assertionResults.filter((test) => test.status === 'failed');
    if (tests.length === 0 && status === 'failed') return [`failed: ${file}`];
    return tests.map(({ fullName }) => `failed: ${file}: ${fullName}`);
  });
  return {
    passed: report.numPassedTests,
    failed: report.numFailedTests,
    skipped: report.numPendingTests + report.numTodoTests,
    failures,
  };
}

/** For `.ci/run`, which adds the static checks and prints the last line. */
async function publish(counts: Counts): Promise<void> {
  const path = process.env.TORPOR_TEST_RESULT;
  if (path !== undefined) await writeFile(path, `${JSON.stringify(counts)}\n`);
}
