import { spawn } from 'node:child_process';
import { TorporError } from '@torpor/protocol';
import type { Account } from './account.ts';

const MAX_OUTPUT_BYTES = 64 * 1024;

export interface ProgramResult {
  readonly exitCode: number | undefined;
  /** The first 64 KiB of both streams. */
  readonly output: string;
  /** Why the program could not be started, for example `EACCES`. */
  readonly spawnError: NodeJS.ErrnoException | undefined;
}

/** Runs a short program, under another account if one is given. Never throws; the result says what happened. */
export function runProgram(
  program: string,
  args: readonly string[],
  options: { readonly account?: Account | undefined; readonly cwd?: string } = {},
): Promise<ProgramResult> {
  return new Promise((resolve) => {
    const child = spawn(program, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      cwd: options.cwd ?? '/',
      env: databaseEnvironment(),
      timeout: 300_000,
      killSignal: 'SIGKILL',
      ...(options.account === undefined
        ? {}
        : { uid: options.account.uid, gid: options.account.gid }),
    });
    let output = '';
    let spawnError: NodeJS.ErrnoException | undefined;
    const capture = (chunk: Buffer) => {
      if (output.length < MAX_OUTPUT_BYTES) output += chunk.toString();
    };
    child.stdout.on('data', capture);
    child.stderr.on('data', capture);
    child.on('error', (error) => {
      spawnError = error;
      if (child.pid === undefined) resolve({ exitCode: undefined, output, spawnError });
    });
    child.on('close', (code) => {
      resolve({ exitCode: code ?? undefined, output: output.trim(), spawnError });
    });
  });
}

/** Like {@link runProgram}, but anything other than success is a `host_setup` error. */
export async function requireProgram(
  program: string,
  args: readonly string[],
  purpose: string,
  options: { readonly account?: Account | undefined; readonly remedy?: string } = {},
): Promise<void> {
  const result = await runProgram(program, args, options);
  if (result.exitCode === 0) return;
  const detail = result.spawnError?.message ?? result.output.split('\n').slice(-5).join('\n');
  throw new TorporError('host_setup', `${purpose} failed: ${detail}`, {
    ...(options.remedy === undefined ? {} : { remedy: options.remedy }),
    cause: result.spawnError,
  });
}

/** The part of our environment that PostgreSQL's programs get: nothing that redirects them, and no secrets. */
export function databaseEnvironment(): Record<string, string> {
  return {
    PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
    LC_ALL: 'C',
    TZ: 'UTC',
  };
}
