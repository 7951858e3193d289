import { Code, ConnectError } from '@connectrpc/connect';
import type { Compression, UniversalServerRequest } from '@connectrpc/connect/protocol';
import { TorporError } from '@torpor/protocol';

/** The flags and the length in front of each message of a stream. */
const ENVELOPE_HEADER_BYTES = 5;
/** The content types of Connect's unary calls; all others have envelopes. */
const UNARY = /^application\/(?:proto|json)\b/;

/**
 * The request, except that reading a message of more than `maxBytes` from it fails with
 * `too_large`. The library's own `readMaxBytes` returns `resource_exhausted`, which E2B's
 * clients report as a rate limit.
 */
export function limitMessages(
  request: UniversalServerRequest,
  maxBytes: number,
): UniversalServerRequest {
  if (!isByteStream(request.body)) return request;
  if (!UNARY.test(request.header.get('content-type') ?? '')) {
    return { ...request, body: limitEnvelopes(request.body, maxBytes) };
  }
  const announced = Number(request.header.get('content-length') ?? 0);
  // The library would check it before it reads.
  request.header.delete('content-length');
  return { ...request, body: limitBody(request.body, announced, maxBytes) };
}

/** A compression whose unpacked messages are limited with the same error. */
export function limitUnpacked(compression: Compression): Compression {
  return {
    ...compression,
    async decompress(bytes, readMaxBytes) {
      try {
        return await compression.decompress(bytes, readMaxBytes);
      } catch (error) {
        const tooLarge = ConnectError.from(error).code === Code.ResourceExhausted;
        throw tooLarge ? messageTooLarge(undefined, readMaxBytes) : error;
      }
    },
  };
}

function isByteStream(body: UniversalServerRequest['body']): body is AsyncIterable<Uint8Array> {
  return typeof body === 'object' && body !== null && Symbol.asyncIterator in body;
}

async function* limitBody(
  body: AsyncIterable<Uint8Array>,
  announced: number,
  maxBytes: number,
): AsyncGenerator<Uint8Array> {
  if (announced > maxBytes) throw messageTooLarge(announced, maxBytes);
  let size = 0;
  for await (const chunk of body) {
    size += chunk.length;
    if (size > maxBytes) throw messageTooLarge(undefined, maxBytes);
    yield chunk;
  }
}

async function* limitEnvelopes(
  body: AsyncIterable<Uint8Array>,
  maxBytes: number,
): AsyncGenerator<Uint8Array> {
  const header = Buffer.alloc(ENVELOPE_HEADER_BYTES);
  let headerBytes = 0;
  let messageBytes = 0;
  for await (const chunk of body) {
    for (let at = 0; at < chunk.length; ) {
      if (messageBytes > 0) {
        const taken = Math.min(messageBytes, chunk.length - at);
        messageBytes -= taken;
        at += taken;
        continue;
      }
      header[headerBytes++] = chunk[at++] ?? 0;
      if (headerBytes < ENVELOPE_HEADER_BYTES) continue;
      headerBytes = 0;
      messageBytes = header.readUInt32BE(1);
      if (messageBytes > maxBytes) throw messageTooLarge(messageBytes, maxBytes);
    }
    yield chunk;
  }
}

function messageTooLarge(bytes: number | undefined, maxBytes: number): ConnectError {
  const size = bytes === undefined ? 'more than that' : `${bytes} bytes`;
  return new TorporError(
    'too_large',
    `a message may have at most ${maxBytes} bytes; this one has ${size}: ` +
      'send input in several pieces, and long content as a file',
  ).toConnectError();
}
