import { TorporError } from '@torpor/protocol';
import { startErrors } from './exit-report.ts';
import type { VmmProcess } from './vmm-process.ts';

/** How long a VMM that has stopped responding may take to exit. */
const EXIT_AFTER_FAILURE_MS = 1_000;

/** The error for a VMM that has exited while it started; undefined while it runs. */
export function exitedWhileStarting(process: VmmProcess): TorporError | undefined {
  process.check();
  if (process.status === undefined) return undefined;
  return new TorporError('vmm_failed', `${process.name} exited while it started.`);
}

/**
 * The error of a start that failed with `error`. If the VMM has exited, what it last wrote to one
 * of these files says more than its closed connection.
 */
export async function explainStartFailure(
  error: unknown,
  process: VmmProcess,
  paths: readonly string[],
): Promise<unknown> {
  const graceMs = process.status === undefined ? EXIT_AFTER_FAILURE_MS : 0;
  if (!(await process.exitsWithin(graceMs))) return error;
  const what = `${process.name} exited while it started: ${await startErrors(paths)}`;
  return new TorporError('vmm_failed', what, { cause: error });
}
