import type { ExecSession } from '@torpor/sdk';
import type { Io } from '../io.ts';

/** Ignores errors: it is not an error if a program exits without reading its input. */
export async function forwardInput(io: Io, session: ExecSession): Promise<void> {
  try {
    for await (const chunk of io.stdin) await session.write(chunk);
    await session.closeStdin();
  } catch {
    return;
  }
}
