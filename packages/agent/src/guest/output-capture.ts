/** Keeps the first bytes of a stream and counts the rest, so that memory stays bounded. */
export class OutputCapture {
  readonly #chunks: Uint8Array[] = [];
  readonly #limit: number;
  #size = 0;
  #dropped = 0n;

  /** `limitBytes`: how much is kept. */
  constructor(limitBytes: number) {
    this.#limit = limitBytes;
  }

  get droppedBytes(): bigint {
    return this.#dropped;
  }

  add(chunk: Uint8Array): void {
    const kept = chunk.subarray(0, Math.max(0, this.#limit - this.#size));
    if (kept.length > 0) this.#chunks.push(kept);
    this.#size += kept.length;
    this.#dropped += BigInt(chunk.length - kept.length);
  }

  bytes(): Uint8Array {
    return Buffer.concat(this.#chunks);
  }
}
