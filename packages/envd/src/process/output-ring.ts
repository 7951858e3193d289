export type OutputKind = 'stdout' | 'stderr' | 'pty';

export interface OutputChunk {
  readonly kind: OutputKind;
  readonly bytes: Uint8Array;
}

interface Segment {
  readonly kind: OutputKind;
  length: number;
}

const FIRST_CAPACITY = 1024;
/** Bounds the bookkeeping of a process that alternates between its streams byte by byte. */
const MAX_SEGMENTS = 1024;

/** The last bytes of a process's output, for clients that connect late. */
export class OutputRing {
  readonly #limit: number;
  #buffer: Buffer = Buffer.alloc(0);
  #start = 0;
  #length = 0;
  #segments: Segment[] = [];

  /** @param limit How many bytes to keep at most. */
  constructor(limit: number) {
    this.#limit = limit;
  }

  push({ kind, bytes }: OutputChunk): void {
    const kept = bytes.length > this.#limit ? bytes.subarray(bytes.length - this.#limit) : bytes;
    if (kept.length === 0) return;
    this.#drop(Math.max(0, this.#length + kept.length - this.#limit));
    this.#reserve(this.#length + kept.length);
    const end = (this.#start + this.#length) % this.#buffer.length;
    const first = Math.min(kept.length, this.#buffer.length - end);
    this.#buffer.set(kept.subarray(0, first), end);
    this.#buffer.set(kept.subarray(first), 0);
    this.#length += kept.length;
    const last = this.#segments.at(-1);
    if (last?.kind === kind) last.length += kept.length;
    else this.#segments.push({ kind, length: kept.length });
    if (this.#segments.length > MAX_SEGMENTS) {
      this.#drop(this.#segments[0]?.length ?? 0);
    }
  }

  /** Copies of the stored output, oldest first. */
  chunks(): OutputChunk[] {
    const all = this.#linear();
    let offset = 0;
    return this.#segments.map(({ kind, length }) => {
      const bytes = all.subarray(offset, offset + length);
      offset += length;
      return { kind, bytes };
    });
  }

  #drop(count: number): void {
    this.#length -= count;
    if (this.#length === 0) this.#start = 0;
    else this.#start = (this.#start + count) % this.#buffer.length;
    let left = count;
    let whole = 0;
    for (const segment of this.#segments) {
      if (segment.length > left) {
        segment.length -= left;
        break;
      }
      left -= segment.length;
      whole += 1;
    }
    this.#segments.splice(0, whole);
  }

  #reserve(size: number): void {
    if (size <= this.#buffer.length) return;
    let capacity = Math.max(FIRST_CAPACITY, this.#buffer.length);
    while (capacity < size) capacity *= 2;
    const grown = Buffer.allocUnsafeSlow(Math.min(capacity, this.#limit));
    grown.set(this.#linear(), 0);
    this.#buffer = grown;
    this.#start = 0;
  }

  #linear(): Buffer {
    const first = Math.min(this.#length, this.#buffer.length - this.#start);
    return Buffer.concat([
      this.#buffer.subarray(this.#start, this.#start + first),
      this.#buffer.subarray(0, this.#length - first),
    ]);
  }
}
