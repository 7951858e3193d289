import { TorporError } from '@torpor/protocol';

/**
 * Forwards in both directions until one of them finishes: the process exits, or the client
 * disconnects. What was attached to keeps running; `signal` cancels the calls to its agent.
 */
export async function whileConnected(
  forward: (signal: AbortSignal) => readonly [output: Promise<void>, input: Promise<void>],
): Promise<void> {
  const abort = new AbortController();
  const directions = forward(abort.signal);
  try {
    await Promise.race(directions);
  } finally {
    abort.abort(new TorporError('conflict', 'The client disconnected.'));
    for (const direction of directions) direction.catch(() => undefined);
  }
}
