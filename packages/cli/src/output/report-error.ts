import type { TorporError } from '@torpor/sdk/basics';
import { type Io, line } from '../io.ts';
import { commandLineRemedy } from './command-line-remedy.ts';
import { commandLineMessage } from './option-names.ts';

export interface ReportOptions {
  /** Also as one line of JSON on standard output. */
  readonly asJson: boolean;
  /** Whether the stack of an internal error is printed. */
  readonly debug?: boolean;
}

/** Prints an error and its remedy. */
export async function reportError(
  io: Io,
  error: TorporError,
  { asJson, debug = false }: ReportOptions,
): Promise<void> {
  if (asJson) {
    const body = { error: errorEntry(error) };
    // Standard output may be what failed.
    await line(io.stdout, JSON.stringify(body)).catch(() => undefined);
  }
  await line(io.stderr, `torpor: ${commandLineMessage(error)}`);
  await printRemedies(io, [error]);
  if (error.code === 'internal_error' && debug) {
    await line(io.stderr, String(error.cause instanceof Error ? error.cause.stack : error.stack));
  }
}

/** An error in JSON. */
export function errorEntry(error: TorporError) {
  const remedy = commandLineRemedy(error);
  const message = commandLineMessage(error);
  return { code: error.code, message, ...(remedy === '' ? {} : { remedy }) };
}

/** Prints what to do about errors whose messages have been printed; what helps with several only once. */
export async function printRemedies(io: Io, errors: readonly TorporError[]): Promise<void> {
  const remedies = new Set(errors.map(commandLineRemedy));
  remedies.delete('');
  for (const remedy of remedies) await line(io.stderr, `  → ${remedy}`);
}
