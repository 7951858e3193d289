import type { TorporError } from '@torpor/protocol';
import { type Io, line } from '../io.ts';

/** Prints an error as a sentence and what to do; with `--json` also as one line on standard output. */
export async function reportError(io: Io, error: TorporError, asJson: boolean): Promise<void> {
  if (asJson) {
    const { code, message, remedy } = error;
    const body = { error: { code, message, ...(remedy === '' ? {} : { remedy }) } };
    await line(io.stdout, JSON.stringify(body));
  }
  await line(io.stderr, `torpor: ${error.message}`);
  if (error.remedy !== '') await line(io.stderr, `  → ${error.remedy}`);
  if (error.code === 'internal_error' && io.env.TORPOR_DEBUG !== undefined) {
    await line(io.stderr, String(error.cause instanceof Error ? error.cause.stack : error.stack));
  }
}
