import { HttpError } from './http-error.ts';

/** The encoding that a client accepts: uncompressed, gzip if it is smaller, or gzip only. */
export type WantedEncoding = 'identity' | 'gzip if smaller' | 'gzip only';

/**
 * The preference of an `Accept-Encoding` header (RFC 9110, section 12.5.3) between the two
 * supported encodings; `identity` without a preference. Throws HttpError 406 if it forbids
 * both.
 */
export function wantedEncoding(header: string | undefined): WantedEncoding {
  const weights = parseWeights(header ?? '');
  const any = weights.get('*');
  const gzip = weights.get('gzip') ?? weights.get('x-gzip') ?? any ?? 0;
  // Unlike others, identity is acceptable unless it is excluded.
  const identity = weights.get('identity') ?? (any === 0 ? 0 : undefined);
  const named = weights.has('gzip') || weights.has('x-gzip');
  if (gzip > 0 && identity === 0) return 'gzip only';
  if (gzip > 0 && named && gzip >= (identity ?? 0)) return 'gzip if smaller';
  if (identity !== 0) return 'identity';
  throw new HttpError(406, 'no acceptable encoding found, supported: gzip, identity');
}

function parseWeights(header: string): Map<string, number> {
  const weights = new Map<string, number>();
  for (const item of header.split(',')) {
    const [name = '', ...parameters] = item.split(';').map((part) => part.trim().toLowerCase());
    if (name === '') continue;
    const weight = parameters.find((parameter) => parameter.startsWith('q='));
    const value = weight === undefined ? 1 : Number(weight.slice(2));
    weights.set(name, Number.isFinite(value) ? value : 1);
  }
  return weights;
}
