/*
 * The name of a file in a multipart form, from the part's Content-Disposition.
 *
 * Senders disagree. The WHATWG's form data (browsers, fetch, curl, requests) replaces a
 * quote, CR and LF by %22, %0D and %0A, and leaves `%` and the backslash as they are; Go and
 * `curl --form-escape` put a backslash before quotes and backslashes, and so does httpx,
 * before backslashes only; and some send RFC 5987's `filename*`.
 *
 * So percent signs are never decoded: a file may really be named `100%22.txt`, and no sender
 * says whether it meant that. (E2B does the same.) Backslashes are taken as escapes if all of
 * them can be, else they are part of the name.
 */

/**
 * The parameters of a header such as `form-data; name="file"; filename="a b.txt"`, by their
 * names in lower case. `header` holds a byte in each character. A parameter `name*` (RFC 5987)
 * replaces `name`. Throws TypeError for bytes that are not UTF-8.
 */
export function headerParameters(header: string): Map<string, string> {
  const plain = new Map<string, string>();
  const extended = new Map<string, string>();
  for (const [, name = '', quoted, token = ''] of header.matchAll(PARAMETER)) {
    const value = quoted === undefined ? token.trim() : withoutEscapes(quoted);
    const key = name.toLowerCase();
    if (key.endsWith('*')) extended.set(key.slice(0, -1), decodeExtended(value));
    else if (!plain.has(key)) plain.set(key, decodeUtf8(Buffer.from(value, 'latin1')));
  }
  return new Map([...plain, ...extended]);
}

/**
 * The end of a quoted value is a quote followed by a semicolon or nothing; for a sender that
 * escapes quotes, one without a backslash, if there is one.
 */
const PARAMETER = /;\s*([^\s=;"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*|[^"]*)"(?=\s*(?:;|$))|([^;"]*))/gs;

/** Leaves the text as it is if not every backslash in it can be an escape. */
function withoutEscapes(quoted: string): string {
  return /^(?:[^\\]|\\["\\])*$/s.test(quoted) ? quoted.replaceAll(/\\(["\\])/g, '$1') : quoted;
}

/** `UTF-8'en'%e2%82%ac`, of which only UTF-8 is in use. */
function decodeExtended(value: string): string {
  const [charset = '', , ...rest] = value.split("'");
  if (rest.length === 0 || !/^utf-8$/i.test(charset)) {
    throw new TypeError('an extended parameter is not UTF-8');
  }
  const bytes = rest
    .join("'")
    .replaceAll(/%([\da-f]{2})/gi, (_, hex: string) =>
      String.fromCharCode(Number.parseInt(hex, 16)),
    );
  return decodeUtf8(Buffer.from(bytes, 'latin1'));
}

function decodeUtf8(bytes: Uint8Array): string {
  return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
}
