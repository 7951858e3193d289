import { TorporError } from '@torpor/protocol';

/** What is read and thrown away of a body that nobody wants, in bytes and in time. */
const MAX_DISCARDED_BYTES = 64 * 1024 * 1024;
const MAX_DISCARD_MS = 10_000;

/**
 * The chunks of a request's body. Throws when the client disconnects (`signal`), so that half
 * a body is never taken for a whole one. When the reader stops early, the rest is read and
 * thrown away, within bounds, rather than the connection cut: a client that is still
 * sending gets the response and not a broken pipe.
 */
export async function* bodyChunks(
  request: Request,
  signal: AbortSignal = request.signal,
): AsyncGenerator<Uint8Array, void, void> {
  if (request.body === null) return;
  const reader = request.body.getReader();
  // Ends a read that is under way; the body itself does not always tell.
  const hangUp = () => reader.releaseLock();
  signal.addEventListener('abort', hangUp);
  let ended = false;
  try {
    for (;;) {
      const { done, value } = await readOrHangUp(reader, signal);
      if (done) {
        ended = true;
        return;
      }
      yield value;
    }
  } finally {
    signal.removeEventListener('abort', hangUp);
    if (!ended && !signal.aborted) void discard(reader);
  }
}

async function readOrHangUp(reader: ReadableStreamDefaultReader<Uint8Array>, signal: AbortSignal) {
  if (!signal.aborted) {
    try {
      const result = await reader.read();
      if (!signal.aborted) return result;
    } catch (error) {
      if (!signal.aborted) throw error;
    }
  }
  throw new TorporError('conflict', 'The client disconnected.');
}

async function discard(reader: ReadableStreamDefaultReader<Uint8Array>): Promise<void> {
  const deadline = Date.now() + MAX_DISCARD_MS;
  let size = 0;
  try {
    while (size < MAX_DISCARDED_BYTES && Date.now() < deadline) {
      const { done, value } = await reader.read();
      if (done) return;
      size += value.byteLength;
    }
    await reader.cancel();
  } catch {
    // The client has disconnected; there is no more to read.
  }
}
