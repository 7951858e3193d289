import type { TorporError } from '@torpor/protocol';
import { type Io, line } from '../io.ts';
import { commandLineMessage } from './option-names.ts';

/** Prints an error as a sentence and what to do; with `--json` also as one line on standard output. */
export async function reportError(io: Io, error: TorporError, asJson: boolean): Promise<void> {
  const message = commandLineMessage(error);
  if (asJson) {
    const { code, remedy } = error;
    const body = { error: { code, message, ...(remedy === '' ? {} : { remedy }) } };
    // Standard output may be what failed.
    await line(io.stdout, JSON.stringify(body)).catch(() => undefined);
  }
  await line(io.stderr, `torpor: ${message}`);
  if (error.remedy !== '') await line(io.stderr, `  → ${error.remedy}`);
  if (error.code === 'internal_error' && io.env.TORPOR_DEBUG !== undefined) {
    await line(io.stderr, String(error.cause instanceof Error ? error.cause.stack : error.stack));
  }
}
