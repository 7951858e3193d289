import { once } from 'node:events';
import type { Readable } from 'node:stream';
import { Busboy } from '@fastify/busboy';
import { HttpError } from './http-error.ts';
import { chunksOf } from './request-body.ts';

export interface FilePart {
  /** As sent, with its directories. */
  readonly filename: string | undefined;
  readonly body: Readable;
}

/** Parts with other names than `file` are passed over. */
const LIMITS = { fields: 100, fieldSize: 64 * 1024 };

/**
 * Hands the parts named `file` of a multipart body over, one after the other, as
 * they arrive. Throws what the handler throws, which ends the reading, and HttpError
 * 400 for a body that is malformed or cut off.
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
  parser.on('file', (_field: string, part: Readable, filename: string | undefined) => {
    unread.add(part);
    part.on('error', (error) => failure.reject(malformed(error)));
    handled = handled.then(async () => {
      await handle({ filename: decodeFilename(filename), body: part });
      unread.delete(part);
    });
    handled.catch(failure.reject);
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

function newParser(contentType: string) {
  try {
    return new Busboy({
      headers: { 'content-type': contentType },
      preservePath: true,
      isPartAFile: (field) => field === 'file',
      limits: LIMITS,
    });
  } catch (error) {
    throw malformed(error);
  }
}

function malformed(error: unknown): HttpError {
  if (error instanceof HttpError) return error;
  const reason = error instanceof Error ? error.message : String(error);
  return new HttpError(400, `error parsing multipart form: ${reason}`, error);
}

/** What the HTML standard's multipart encoding escapes in a file name. */
function decodeFilename(filename: string | undefined): string | undefined {
  return filename?.replaceAll('%0A', '\n').replaceAll('%0D', '\r').replaceAll('%22', '"');
}
