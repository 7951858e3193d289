import { TorporError } from '@torpor/protocol';
import type { ExecOptions, ExecResult, Sandbox } from '@torpor/sdk';
import { exitCodeOfProgram, exitCodeOfSignal } from '../exit-codes.ts';
import { type Io, json } from '../io.ts';

/**
 * Runs a program in a sandbox, prints its result as one JSON object, and returns the status
 * to exit with. A termination signal gives up the call, which kills the program.
 */
export async function runCollected(
  io: Io,
  sandbox: Sandbox,
  [cmd, ...args]: readonly string[],
  options: ExecOptions,
): Promise<number> {
  if (cmd === undefined) throw new TorporError('invalid_request', 'Say which program to run.');
  const interrupted = new AbortController();
  const unsubscribe = io.onSignal((signal) => interrupted.abort(signal));
  let result: ExecResult;
  try {
    const { timeoutMs = 0 } = options;
    result = await sandbox.exec(cmd, args, { ...options, timeoutMs, signal: interrupted.signal });
  } catch (error) {
    if (interrupted.signal.aborted) return exitCodeOfSignal(interrupted.signal.reason);
    throw error;
  } finally {
    unsubscribe();
  }
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
