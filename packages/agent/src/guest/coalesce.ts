/**
 * Joins small chunks into ones of at least `leastBytes`, the last one excepted: each message of
 * an RPC has a cost of its own. At most `leastBytes` and one chunk are buffered.
 */
export async function* coalesce(
  chunks: AsyncIterable<Uint8Array>,
  leastBytes: number,
): AsyncGenerator<Uint8Array> {
  let waiting: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of chunks) {
    waiting.push(chunk);
    size += chunk.length;
    if (size < leastBytes) continue;
    yield joined(waiting);
    waiting = [];
    size = 0;
  }
  if (size > 0) yield joined(waiting);
}

function joined(chunks: readonly Uint8Array[]): Uint8Array {
  const [only] = chunks;
  return chunks.length === 1 && only !== undefined ? only : Buffer.concat(chunks);
}
