import { isUtf8 } from 'node:buffer';

/** Length of the longest prefix of `bytes` that does not end inside a UTF-8 sequence. */
export function completeUtf8Length(bytes: Uint8Array): number {
  const end = bytes.length;
  for (let back = 1; back <= Math.min(4, end); back++) {
    const byte = bytes[end - back] ?? 0;
    if ((byte & 0b1100_0000) === 0b1000_0000) continue;
    const length = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
    return length > back ? end - back : end;
  }
  return end;
}

export interface Piece {
  readonly data: string;
  readonly encoding?: 'base64';
}

/**
 * Turns the chunks of one output stream into pieces of text. A character that is split
 * between chunks is put together again; bytes that are not UTF-8 become base64, so that
 * none is lost.
 */
export class TextPieces {
  #carry: Uint8Array = new Uint8Array();

  /** At most one piece; none while only part of a character has arrived. */
  push(chunk: Uint8Array): Piece | undefined {
    const bytes = this.#carry.length === 0 ? chunk : Buffer.concat([this.#carry, chunk]);
    const complete = completeUtf8Length(bytes);
    this.#carry = bytes.slice(complete);
    return encode(bytes.subarray(0, complete));
  }

  /** The rest, at the end of the stream. */
  flush(): Piece | undefined {
    const rest = this.#carry;
    this.#carry = new Uint8Array();
    return encode(rest);
  }
}

function encode(bytes: Uint8Array): Piece | undefined {
  if (bytes.length === 0) return undefined;
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return isUtf8(buffer)
    ? { data: buffer.toString('utf8') }
    : { data: buffer.toString('base64'), encoding: 'base64' };
}
