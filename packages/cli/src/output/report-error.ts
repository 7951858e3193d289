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
  const message = commandLineMessage(error);
  const remedy = commandLineRemedy(error);
  if (asJson) {
    const { code } = error;
    const body = { error: { code, message, ...(remedy === '' ? {} : { remedy }) } };
    // Standard output may be what failed.
    await line(io.stdout, JSON.stringify(body)).catch(() => undefined);
  }
  await line(io.stderr, `torpor: ${message}`);
  if (remedy !== '') await line(io.stderr, `  → ${remedy}`);
  if (error.code === 'internal_error' && debug) {
    await line(io.stderr, String(error.cause instanceof Error ? error.cause.stack : error.stack));
  }
}
