import { type BigIntStats, constants, createReadStream } from 'node:fs';
import { type FileHandle, open, stat } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGzip } from 'node:zlib';
import type { EnvdContext } from '../context.ts';
import { isMissing } from '../filesystem/errors.ts';
import { negotiateEncoding } from './accept-encoding.ts';
import { evaluateConditions, rangeStillMeant, type Validators } from './conditions.ts';
import { readAll } from './content.ts';
import { dispositionOf, mediaTypeOf } from './content-headers.ts';
import { HttpError } from './http-error.ts';
import { type ByteRange, parseRange } from './range.ts';
import { authorizeFileRequest } from './signature.ts';

const CHUNK_BYTES = 256 * 1024;
const SNIFF_BYTES = 512;

/** `GET /files` and `HEAD /files`: the bytes of a file, or a range of them. */
export async function handleDownload(
  request: IncomingMessage,
  response: ServerResponse,
  query: URLSearchParams,
  context: EnvdContext,
): Promise<void> {
  authorizeFileRequest(request, query, 'read', context.accessToken);
  const user = context.resolveUser(query.get('username') ?? undefined);
  const path = context.resolvePath(query.get('path') ?? '', user);
  await assertReadable(path);
  const encoding = negotiateEncoding(request.headersDistinct['accept-encoding']?.join(','));
  // A FIFO put in the file's place meanwhile would block: hence O_NONBLOCK.
  await using file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  const stats = await file.stat({ bigint: true });
  const head = await readHead(file);
  response.setHeader('Vary', 'Accept-Encoding');
  response.setHeader('Content-Disposition', dispositionOf(path));
  response.setHeader('Content-Type', mediaTypeOf(path, head));
  const download = new Download(request, response, file, Number(stats.size));
  // The files of proc and sysfs say that they are empty, and are not.
  if (stats.size === 0n && head.length > 0) return await download.sendUntilEnd(encoding);
  return await download.send(encoding, validatorsOf(stats));
}

class Download {
  readonly #request: IncomingMessage;
  readonly #response: ServerResponse;
  readonly #file: FileHandle;
  readonly #size: number;

  constructor(request: IncomingMessage, response: ServerResponse, file: FileHandle, size: number) {
    this.#request = request;
    this.#response = response;
    this.#file = file;
    this.#size = size;
  }

  /** A file whose size is known; conditions and ranges are those of RFC 9110. */
  async send(encoding: 'gzip' | 'identity', validators: Validators): Promise<void> {
    const { headers } = this.#request;
    const response = this.#response;
    response.setHeader('ETag', validators.etag);
    response.setHeader('Last-Modified', new Date(validators.modifiedMs).toUTCString());
    response.setHeader('Accept-Ranges', 'bytes');
    const verdict = evaluateConditions(headers, validators);
    if (verdict === 'not modified') return this.#end(304);
    if (verdict === 'precondition failed') {
      throw new HttpError(412, 'the file is not the one that the request is about');
    }
    const range =
      headers.range !== undefined && rangeStillMeant(headers, validators)
        ? parseRange(headers.range, this.#size)
        : 'all';
    if (range === 'unsatisfiable') {
      response.setHeader('Content-Range', `bytes */${this.#size}`);
      throw new HttpError(416, `the range lies outside of the file's ${this.#size} bytes`);
    }
    if (range !== 'all') {
      response.statusCode = 206;
      response.setHeader('Content-Range', `bytes ${range.first}-${range.last}/${this.#size}`);
      return this.#sendBytes(range);
    }
    const conditional = CONDITIONAL_HEADERS.some((name) => headers[name] !== undefined);
    if (encoding === 'gzip' && !conditional) {
      // The packed bytes are other bytes: they need another tag.
      response.setHeader('ETag', `W/${validators.etag}`);
      response.removeHeader('Accept-Ranges');
      return this.sendUntilEnd('gzip');
    }
    return this.#sendBytes({ first: 0, last: this.#size - 1 });
  }

  /** A file of unknown size, or one that is packed on the way. */
  async sendUntilEnd(encoding: 'gzip' | 'identity'): Promise<void> {
    if (encoding === 'gzip') this.#response.setHeader('Content-Encoding', 'gzip');
    if (this.#request.method === 'HEAD') return this.#end(200);
    const bytes = Readable.from(readAll(this.#file), { objectMode: false });
    await (encoding === 'gzip'
      ? pipeline(bytes, createGzip(), this.#response)
      : pipeline(bytes, this.#response));
  }

  async #sendBytes({ first, last }: ByteRange): Promise<void> {
    const length = last - first + 1;
    this.#response.setHeader('Content-Length', length);
    if (this.#request.method === 'HEAD' || length === 0) {
      return this.#end(this.#response.statusCode);
    }
    const bytes = createReadStream('', {
      fd: this.#file,
      autoClose: false,
      start: first,
      end: last,
      highWaterMark: CHUNK_BYTES,
    });
    await pipeline(bytes, exactly(length), this.#response);
  }

  #end(status: number): void {
    this.#response.statusCode = status;
    this.#response.end();
  }
}

const CONDITIONAL_HEADERS = ['range', 'if-range', 'if-none-match', 'if-modified-since'] as const;

/** Fails if fewer bytes come than were announced: the file was cut short meanwhile. */
function exactly(length: number): Transform {
  let passed = 0;
  return new Transform({
    transform(chunk: Buffer, _encoding, callback) {
      passed += chunk.length;
      callback(null, chunk);
    },
    flush(callback) {
      callback(passed === length ? null : new Error(`the file ended after ${passed} bytes`));
    },
  });
}

async function assertReadable(path: string): Promise<void> {
  try {
    const stats = await stat(path);
    if (stats.isDirectory()) throw new HttpError(400, `path '${path}' is a directory`);
    if (!stats.isFile()) throw new HttpError(400, `path '${path}' is not a regular file`);
  } catch (error) {
    if (isMissing(error)) throw new HttpError(404, `path '${path}' does not exist`, error);
    throw error;
  }
}

async function readHead(file: FileHandle): Promise<Uint8Array> {
  const { buffer, bytesRead } = await file.read(Buffer.alloc(SNIFF_BYTES), 0, SNIFF_BYTES, 0);
  return buffer.subarray(0, bytesRead);
}

function validatorsOf(stats: BigIntStats): Validators {
  const etag = [stats.ino, stats.size, stats.mtimeNs].map((part) => part.toString(16)).join('-');
  return { etag: `"${etag}"`, modifiedMs: Number(stats.mtimeMs) };
}
