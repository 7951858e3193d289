import type { ExecSession } from '@torpor/sdk';
import type { Io } from '../io.ts';

/** A program that exits without reading its input is judged by its status, so errors here are none. */
export async function forwardInput(io: Io, session: ExecSession): Promise<void> {
  try {
    for await (const chunk of io.stdin) await session.write(chunk);
    await session.closeStdin();
  } catch {
    return;
  }
}
