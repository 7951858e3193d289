import { TorporError } from '@torpor/protocol';

/** Limits, in bytes and time, for reading and discarding the rest of a body. */
const MAX_DISCARDED_BYTES = 64 * 1024 * 1024;
const MAX_DISCARD_MS = 10_000;

/**
 * The chunks of a request's body. Throws when the client disconnects or `signal` aborts, so that a
 * partial body is never taken for a complete one. When the reader stops early, the rest is
 * read and discarded, within limits, rather than the connection closed: a client that is
 * still sending gets the response and not a broken pipe.
 */
export async function* bodyChunks(
  request: Request,
  signal: AbortSignal = request.signal,
): AsyncGenerator<Uint8Array, void, void> {
  if (request.body === null) return;
  const reader = request.body.getReader();
  // Makes a pending read fail; the body itself does not always do so.
  const hangUp = () => reader.releaseLock();
  signal.addEventListener('abort', hangUp);
  let complete = false;
  try {
    for (;;) {
      const { done, value } = await readOrHangUp(reader, signal);
      if (done) {
        complete = true;
        return;
      }
      yield value;
    }
  } finally {
    signal.removeEventListener('abort', hangUp);
    if (!complete && !signal.aborted) void discard(reader);
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
  if (signal.reason instanceof TorporError) throw signal.reason;
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
    // The client has disconnected.
  }
}
