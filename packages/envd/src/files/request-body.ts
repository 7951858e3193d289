import type { IncomingMessage } from 'node:http';
import type { Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { errnoName } from '../filesystem/errors.ts';
import { HttpError } from './http-error.ts';

/**
 * The body of a request as its sender meant it: unpacked if `Content-Encoding` is gzip. Throws
 * HttpError 400 for another encoding; reading it throws 400 for invalid or truncated gzip.
 */
export function openBody(request: IncomingMessage): Readable {
  const encoding = (request.headers['content-encoding'] ?? 'identity').trim().toLowerCase();
  if (encoding === 'identity' || encoding === '') return request;
  if (encoding !== 'gzip' && encoding !== 'x-gzip') {
    throw new HttpError(400, `unsupported Content-Encoding: ${encoding}, supported: gzip`);
  }
  const gunzip = createGunzip();
  // It can fail before it is read; a later reader gets the error.
  gunzip.on('error', () => undefined);
  // Destroying the request would close the connection that the response needs.
  request.once('close', () => {
    if (!request.complete) gunzip.destroy(new HttpError(400, 'the request was cut off'));
  });
  return request.pipe(gunzip);
}

/**
 * Reads a body without destroying it when reading stops early, so that the response can still
 * be sent on the connection. Throws HttpError 400 if it is truncated.
 */
export async function* chunksOf(body: Readable): AsyncGenerator<Buffer> {
  try {
    for await (const chunk of body.iterator({ destroyOnReturn: false })) yield chunk as Buffer;
  } catch (error) {
    throw bodyError(error);
  }
}

function bodyError(error: unknown): unknown {
  const name = errnoName(error) ?? '';
  if (name.startsWith('Z_')) {
    return new HttpError(400, `the body is not valid gzip: ${String(error)}`, error);
  }
  if (name === 'ECONNRESET' || name === 'ERR_STREAM_PREMATURE_CLOSE') {
    return new HttpError(400, 'the request was cut off', error);
  }
  return error;
}
