import { once } from 'node:events';
import type { Readable } from 'node:stream';
import { Dicer } from '@fastify/busboy';
import { HttpError } from './http-error.ts';
import { headerParameters } from './part-name.ts';
import { chunksOf } from './request-body.ts';

export interface FilePart {
  /** As sent, with its directories. */
  readonly filename: string | undefined;
  readonly body: Readable;
}

/** A path has at most 4096 bytes. */
const LIMITS = { maxHeaderPairs: 20, maxHeaderSize: 32 * 1024 };

/**
 * Calls the handler with the parts named `file` of a multipart body, one after the other, as
 * they arrive. Throws what the handler throws, which stops the reading, and HttpError 400 for a
 * malformed or truncated body.
 */
export async function readFileParts(
  body: Readable,
  contentType: string,
  handle: (part: FilePart) => Promise<void>,
): Promise<void> {
  const parser = newParser(contentType);
  const failure = Promise.withResolvers<never>();
  failure.promise.catch(() => undefined);
  const unread = new Set<Readable>();
  let handled: Promise<void> = Promise.resolve();
  parser.on('error', (error: unknown) => failure.reject(malformed(error)));
  parser.on('part', (part: Readable) => {
    part.on('error', (error) => failure.reject(malformed(error)));
    part.on('header', (header: PartHeader) => {
      try {
        const parameters = parametersOf(header);
        // Other parts are ignored.
        if (parameters.get('name') !== 'file') return void part.resume();
        unread.add(part);
        handled = handled.then(async () => {
          await handle({ filename: parameters.get('filename'), body: part });
          unread.delete(part);
        });
        handled.catch(failure.reject);
      } catch (error) {
        part.resume();
        failure.reject(malformed(error));
      }
    });
  });
  const finished = new Promise<void>((resolve) => parser.once('finish', () => resolve()));
  try {
    const chunks = chunksOf(body);
    for (;;) {
      const next = await Promise.race([chunks.next(), failure.promise]);
      if (next.done) break;
      if (!parser.write(next.value)) await Promise.race([once(parser, 'drain'), failure.promise]);
    }
    parser.end();
    await Promise.race([finished, failure.promise]);
    await handled;
  } catch (error) {
    const reason = error instanceof Error ? error : new Error(String(error));
    for (const part of unread) part.destroy(reason);
    await handled.catch(() => undefined);
    throw error;
  }
}

function newParser(contentType: string): Dicer {
  try {
    const boundary = headerParameters(contentType).get('boundary') ?? '';
    if (boundary === '') throw new TypeError('the content type has no boundary');
    return new Dicer({ boundary, ...LIMITS });
  } catch (error) {
    throw malformed(error);
  }
}

/** By their names in lower case; a byte in each character. */
type PartHeader = Readonly<Record<string, readonly string[]>>;

function parametersOf(header: PartHeader): Map<string, string> {
  const disposition = header['content-disposition']?.[0] ?? '';
  if (!/^form-data\s*;/i.test(disposition)) {
    throw new TypeError('a part has no Content-Disposition of the type form-data');
  }
  return headerParameters(disposition);
}

function malformed(error: unknown): HttpError {
  if (error instanceof HttpError) return error;
  const reason = error instanceof Error ? error.message : String(error);
  return new HttpError(400, `error parsing multipart form: ${reason}`, error);
}
