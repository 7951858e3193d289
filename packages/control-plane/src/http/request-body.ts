/** What is read and thrown away of a body that nobody wants, in bytes and in time. */
const MAX_DISCARDED_BYTES = 64 * 1024 * 1024;
const MAX_DISCARD_MS = 10_000;

/**
 * The chunks of a request's body. When the reader stops early, the rest is read and
 * thrown away, within bounds, rather than the connection cut: a client that is still
 * sending gets the answer and not a broken pipe.
 */
export async function* bodyChunks(
  body: ReadableStream<Uint8Array>,
): AsyncGenerator<Uint8Array, void, void> {
  const reader = body.getReader();
  let ended = false;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) {
        ended = true;
        return;
      }
      yield value;
    }
  } finally {
    if (!ended) void discard(reader);
  }
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
    // The client is gone, and with it the rest of the body.
  }
}
