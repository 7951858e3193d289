import type { IncomingMessage } from 'node:http';
import { HttpError } from './http-error.ts';

const HEADER_PREFIX = 'x-metadata-';
const PRINTABLE_ASCII = /^[\x20-\x7e]*$/;

/** The limit of an attribute's name (255 bytes), less the prefix `user.e2b.`. */
const MAX_KEY_BYTES = 246;
const XATTR_PREFIX_BYTES = 9;
const MAX_TOTAL_BYTES = 4096;

/**
 * The metadata of an upload, from headers `X-Metadata-<key>: <value>`, keys in lower case; of a
 * repeated header the first is used. Throws HttpError 400 for what is not printable ASCII, for
 * a key of over 246 bytes, and for over 4096 in all.
 */
export function metadataOf(request: IncomingMessage): Record<string, string> {
  const metadata: Record<string, string> = {};
  let total = 0;
  for (const [header, values] of Object.entries(request.headersDistinct)) {
    if (!header.startsWith(HEADER_PREFIX)) continue;
    const key = header.slice(HEADER_PREFIX.length);
    const value = values?.[0] ?? '';
    if (key === '') continue;
    if (!PRINTABLE_ASCII.test(key) || !PRINTABLE_ASCII.test(value)) {
      throw new HttpError(400, `metadata '${key}' is not printable US-ASCII`);
    }
    if (key.length > MAX_KEY_BYTES) {
      throw new HttpError(400, `a metadata key has more than ${MAX_KEY_BYTES} bytes`);
    }
    total += XATTR_PREFIX_BYTES + key.length + value.length;
    if (total > MAX_TOTAL_BYTES) {
      throw new HttpError(400, `the metadata has more than ${MAX_TOTAL_BYTES} bytes in all`);
    }
    metadata[key] = value;
  }
  return metadata;
}
