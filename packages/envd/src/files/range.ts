/** Bytes of a file, first and last inclusive. */
export interface ByteRange {
  readonly first: number;
  readonly last: number;
}

/** More ranges would only cost the server time. */
const MAX_RANGES = 100;

/**
 * Parses a `Range` header (RFC 9110, section 14.2) for a file of `size` bytes: one range,
 * `unsatisfiable` (416), or `all` for a header that is malformed, not in bytes, or asks for
 * several separate pieces, to which a server may respond with the whole file.
 */
export function parseRange(header: string, size: number): ByteRange | 'all' | 'unsatisfiable' {
  const specifiers = /^bytes=(.+)$/i.exec(header.trim())?.[1]?.split(',');
  if (specifiers === undefined || specifiers.length > MAX_RANGES) return 'all';
  const ranges: ByteRange[] = [];
  for (const specifier of specifiers) {
    const match = /^(\d{0,15})-(\d{0,15})$/.exec(specifier.trim());
    if (match === null) return 'all';
    const [, from = '', to = ''] = match;
    if (from === '' && to === '') return 'all';
    if (from !== '' && to !== '' && Number(to) < Number(from)) return 'all';
    const range = resolveRange(from, to, size);
    if (range !== undefined) ranges.push(range);
  }
  return join(ranges);
}

function resolveRange(from: string, to: string, size: number): ByteRange | undefined {
  if (from === '') {
    const length = Math.min(Number(to), size);
    return length === 0 ? undefined : { first: size - length, last: size - 1 };
  }
  const first = Number(from);
  if (first >= size) return undefined;
  return { first, last: to === '' ? size - 1 : Math.min(Number(to), size - 1) };
}

/** Overlapping and adjacent ranges are one. */
function join(ranges: readonly ByteRange[]): ByteRange | 'all' | 'unsatisfiable' {
  const [head, ...others] = ranges.toSorted((left, right) => left.first - right.first);
  if (head === undefined) return 'unsatisfiable';
  let last = head.last;
  for (const other of others) {
    if (other.first > last + 1) return 'all';
    last = Math.max(last, other.last);
  }
  return { first: head.first, last };
}
