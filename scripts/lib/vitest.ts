// Runs vitest in a separate process, and reads its report.
import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Io } from '@torpor/cli';
import { TorporError } from '@torpor/protocol';
import { z } from 'zod';

const VITEST = fileURLToPath(new URL('../../node_modules/vitest/vitest.mjs', import.meta.url));
const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));
/** Longer than any project needs: after it, something hangs. */
const PROJECT_TIMEOUT_MS = 30 * 60_000;
/** Node loads the file directly: vitest's default writes a bundle into node_modules, which may be another user's. */
const CONFIGURATION = ['--configLoader', 'native'] as const;

/** The parts of the JSON reporter's output that are read here. */
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

export interface Counts {
  passed: number;
  failed: number;
  skipped: number;
}

export interface Result extends Counts {
  /** The failed tests, with their files. */
  failures: string[];
}

export interface ProjectRun {
  readonly project: string;
  /** Words that select test files by a part of their path, or else tests by their name; options of vitest. */
  readonly arguments: readonly string[];
  readonly env: NodeJS.ProcessEnv;
  readonly io: Io;
}

/** Runs one project; vitest's output is shown, the counts are from its JSON report. */
export async function runProject(run: ProjectRun): Promise<Result> {
  const directory = await mkdtemp(join(tmpdir(), 'vitest-report-'));
  try {
    const report = join(directory, 'report.json');
    const status = await runVitest(run, [
      'run',
      ...['--project', run.project, '--passWithNoTests'],
      ...['--reporter=default', '--reporter=json', `--outputFile.json=${report}`],
      ...(await selection(run)),
    ]);
    const result = readReport(await readFile(report, 'utf8').catch(() => ''));
    if (status === 0 || result.failed > 0) return result;
    // A file that does not load, or an error outside any test, is not in the list of failed tests.
    const failure = `failed: the ${run.project} tests, with status ${status}`;
    return { ...result, failed: 1, failures: [...result.failures, failure] };
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

/** Throws `invalid_request` for options that vitest does not accept: it would print a stack. */
export async function assertOptions(args: readonly string[]): Promise<void> {
  if (!args.some((argument) => argument.startsWith('-'))) return;
  const child = spawn(
    process.execPath,
    [VITEST, ...CONFIGURATION, 'list', '--filesOnly', ...args],
    {
      cwd: REPOSITORY,
      stdio: ['ignore', 'ignore', 'pipe'],
    },
  );
  const output = Buffer.concat(await child.stderr.toArray()).toString();
  const [, problem] = /^CACError: (.*)$/m.exec(output) ?? [];
  if (problem === undefined) return;
  throw new TorporError('invalid_request', `vitest refuses the options: ${problem}.`, {
    remedy: '`npx vitest --help` lists them; docs/testing.md says how to select tests.',
  });
}

/** A word that matches no path of a test file selects tests by their names. */
async function selection(run: ProjectRun): Promise<string[]> {
  const options = run.arguments.filter((argument) => argument.startsWith('-'));
  const words = run.arguments.filter((argument) => !argument.startsWith('-'));
  // The value of an option cannot be told from a filter: with options, all arguments go to vitest.
  if (options.length > 0) return [...run.arguments];
  const files: string[] = [];
  const names: string[] = [];
  for (const word of words) ((await matchesFile(run, word)) ? files : names).push(word);
  return [...files, ...(names.length > 0 ? ['--testNamePattern', names.join('|')] : [])];
}

async function matchesFile(run: ProjectRun, word: string): Promise<boolean> {
  const args = [...CONFIGURATION, 'list', '--filesOnly', '--project', run.project, word];
  const child = spawn(process.execPath, [VITEST, ...args], {
    cwd: REPOSITORY,
    env: run.env,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const output = Buffer.concat(await child.stdout.toArray()).toString();
  return output.includes('.test.ts');
}

function runVitest({ env, io }: ProjectRun, args: readonly string[]): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [VITEST, ...CONFIGURATION, ...args], {
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
