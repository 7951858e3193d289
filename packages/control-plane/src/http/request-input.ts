import { REMEDIES, rest, TorporError } from '@torpor/protocol';
import { bodyChunks } from './request-body.ts';

/** Timeout for receiving a body of at most 1 MiB. */
const JSON_BODY_TIMEOUT_MS = 30_000;

/** A query string as an object: a parameter that is given several times becomes an array. */
export function queryObject(queries: Record<string, string[]>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(queries).map(([name, values]) => [
      name,
      values.length === 1 ? values[0] : values,
    ]),
  );
}

/**
 * Reads a JSON body of at most {@link rest.MAX_JSON_BODY_BYTES}; no body counts as
 * `{}`. Throws `too_large` as soon as the limit is exceeded, `invalid_request` for
 * anything but JSON in UTF-8.
 */
export async function readJson(request: Request): Promise<unknown> {
  const bytes = await readLimited(request);
  if (bytes.length === 0) return {};
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (error) {
    throw new TorporError('invalid_request', 'The body is not valid JSON in UTF-8.', {
      cause: error,
    });
  }
}

/**
 * Reads the fields of a form (`application/x-www-form-urlencoded`); one that is given several
 * times is an array. Throws `invalid_request`, `too_large`.
 */
export async function readForm(request: Request): Promise<Record<string, unknown>> {
  const type = request.headers.get('content-type') ?? '';
  if (!/^application\/x-www-form-urlencoded *(?:;|$)/i.test(type)) {
    throw new TorporError('invalid_request', 'The body is not a form.');
  }
  const fields = new URLSearchParams(new TextDecoder().decode(await readLimited(request)));
  const names = [...new Set(fields.keys())];
  return Object.fromEntries(
    names.map((name) => {
      const values = fields.getAll(name);
      return [name, values.length === 1 ? values[0] : values];
    }),
  );
}

async function readLimited(request: Request): Promise<Buffer> {
  const limit = rest.MAX_JSON_BODY_BYTES;
  const tooLarge = () =>
    new TorporError('too_large', `The body is larger than ${limit} bytes.`, {
      remedy: REMEDIES.sendAsFile,
    });
  if (Number(request.headers.get('content-length') ?? 0) > limit) throw tooLarge();
  const late = AbortSignal.timeout(JSON_BODY_TIMEOUT_MS);
  const chunks: Uint8Array[] = [];
  let size = 0;
  try {
    for await (const chunk of bodyChunks(request, AbortSignal.any([request.signal, late]))) {
      size += chunk.byteLength;
      if (size > limit) throw tooLarge();
      chunks.push(chunk);
    }
  } catch (error) {
    if (!late.aborted) throw error;
    throw new TorporError('timeout', 'The body of the request was not received in time.');
  }
  return Buffer.concat(chunks);
}
