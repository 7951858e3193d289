import { type BigIntStats, constants } from 'node:fs';
import { type FileHandle, open, stat } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { EnvdContext } from '../context.ts';
import { isMissing } from '../filesystem/errors.ts';
import { type WantedEncoding, wantedEncoding } from './accept-encoding.ts';
import { evaluateConditions, rangeStillMeant, type Validators } from './conditions.ts';
import { readAll, readRange } from './content.ts';
import { dispositionOf, mediaTypeOf } from './content-headers.ts';
import { gzip, isCompressible } from './gzip.ts';
import { HttpError } from './http-error.ts';
import { type ByteRange, parseRange } from './range.ts';
import { authorizeFileRequest, userOfFileRequest } from './signature.ts';

/** Enough to guess the media type, and whether compressing is worth it. */
const HEAD_BYTES = 16 * 1024;
const SNIFF_BYTES = 512;

/** `GET /files` and `HEAD /files`: the bytes of a file, or a range of them. */
export async function handleDownload(
  request: IncomingMessage,
  response: ServerResponse,
  query: URLSearchParams,
  context: EnvdContext,
): Promise<void> {
  authorizeFileRequest(request, query, 'read', context.accessToken);
  const user = userOfFileRequest(request, query, context);
  const path = context.resolvePath(query.get('path') ?? '', user);
  await assertReadable(path);
  const wanted = wantedEncoding(request.headersDistinct['accept-encoding']?.join(','));
  // A FIFO that replaced the file meanwhile would block, so O_NONBLOCK.
  await using file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  const stats = await file.stat({ bigint: true });
  const head = await readHead(file);
  response.setHeader('Vary', 'Accept-Encoding');
  response.setHeader('Content-Disposition', dispositionOf(path));
  response.setHeader('Content-Type', mediaTypeOf(path, head.subarray(0, SNIFF_BYTES)));
  const encoding = await chooseEncoding(wanted, request, path, head);
  const download = new Download(request, response, file, Number(stats.size));
  // The files of proc and sysfs have size 0, but are not empty.
  if (stats.size === 0n && head.length > 0) {
    return await download.sendUncounted(encoding, readAll(file));
  }
  return await download.send(encoding, validatorsOf(stats));
}

type Encoding = 'gzip' | 'identity';

/** As in E2B, ranges and conditions apply to the uncompressed bytes. */
async function chooseEncoding(
  wanted: WantedEncoding,
  request: IncomingMessage,
  path: string,
  head: Buffer,
): Promise<Encoding> {
  if (wanted === 'identity') return 'identity';
  const conditional = CONDITIONAL_HEADERS.some((name) => request.headers[name] !== undefined);
  if (wanted === 'gzip only') {
    if (!conditional) return 'gzip';
    throw new HttpError(406, 'a range or a condition needs identity as an acceptable encoding');
  }
  return !conditional && (await isCompressible(path, head)) ? 'gzip' : 'identity';
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
  async send(encoding: Encoding, validators: Validators): Promise<void> {
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
    const whole = { first: 0, last: this.#size - 1 };
    if (encoding === 'identity') return this.#sendBytes(whole);
    // The compressed bytes differ, so they need another ETag.
    response.setHeader('ETag', `W/${validators.etag}`);
    response.removeHeader('Accept-Ranges');
    return this.sendUncounted('gzip', readRange(this.#file, whole));
  }

  /** Sends a file of unknown size. */
  async sendUncounted(encoding: Encoding, bytes: AsyncIterable<Buffer>): Promise<void> {
    if (encoding === 'gzip') this.#response.setHeader('Content-Encoding', 'gzip');
    if (this.#request.method === 'HEAD') return this.#end(200);
    await this.#pipe(encoding === 'gzip' ? gzip(bytes) : bytes);
  }

  async #sendBytes(range: ByteRange): Promise<void> {
    const length = range.last - range.first + 1;
    this.#response.setHeader('Content-Length', length);
    if (this.#request.method === 'HEAD' || length === 0) {
      return this.#end(this.#response.statusCode);
    }
    await this.#pipe(readRange(this.#file, range));
  }

  #pipe(bytes: AsyncIterable<Buffer>): Promise<void> {
    return pipeline(Readable.from(bytes, { objectMode: false }), this.#response);
  }

  #end(status: number): void {
    this.#response.statusCode = status;
    this.#response.end();
  }
}

const CONDITIONAL_HEADERS = ['range', 'if-range', 'if-none-match', 'if-modified-since'] as const;

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

async function readHead(file: FileHandle): Promise<Buffer> {
  const { buffer, bytesRead } = await file.read(Buffer.alloc(HEAD_BYTES), 0, HEAD_BYTES, 0);
  return buffer.subarray(0, bytesRead);
}

function validatorsOf(stats: BigIntStats): Validators {
  const etag = [stats.ino, stats.size, stats.mtimeNs].map((part) => part.toString(16)).join('-');
  return { etag: `"${etag}"`, modifiedMs: Number(stats.mtimeMs) };
}
