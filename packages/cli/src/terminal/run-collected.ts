import { TorporError } from '@torpor/protocol';
import type { ExecOptions, Sandbox } from '@torpor/sdk';
import { exitCodeOfProgram } from '../exit-codes.ts';
import { type Io, json } from '../io.ts';

/** Runs a program in a sandbox, prints what it did as one JSON object, and returns the status to end with. */
export async function runCollected(
  io: Io,
  sandbox: Sandbox,
  [cmd, ...args]: readonly string[],
  options: ExecOptions,
): Promise<number> {
  if (cmd === undefined) throw new TorporError('invalid_request', 'Say which program to run.');
  const result = await sandbox.exec(cmd, args, { ...options, timeoutMs: options.timeoutMs ?? 0 });
  const status = result.status === undefined ? {} : { status: result.status };
  await json(io, {
    id: sandbox.id,
    exit_code: result.exitCode,
    ...status,
    stdout: result.stdout,
    stderr: result.stderr,
    duration_ms: result.durationMs,
    truncated: result.truncated,
  });
  const error = result.status === undefined ? {} : { error: result.status };
  return exitCodeOfProgram({ exitCode: result.exitCode, ...error });
}
