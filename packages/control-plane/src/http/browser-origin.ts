import type { IncomingHttpHeaders } from 'node:http';

/** Headers of a request, by their names in lower case. */
export type HeaderLookup = (name: string) => string | undefined;

export function headersOf(headers: IncomingHttpHeaders): HeaderLookup {
  return (name) => {
    const value = headers[name];
    return Array.isArray(value) ? value[0] : value;
  };
}

/**
 * Whether the page that sent a request is one of this server. `unknown`: the headers do not
 * say, as those of programs that are no browsers. `publicUrl`: where browsers find the server,
 * if that is not the host name that it gets.
 *
 * Browsers set `Origin` on every WebSocket and on every request that is not GET or HEAD, and
 * `Sec-Fetch-Site` on all requests; scripts can set neither.
 */
export function originOf(
  header: HeaderLookup,
  publicUrl: string | undefined,
): 'same' | 'foreign' | 'unknown' {
  const origin = header('origin');
  if (origin !== undefined) {
    if (!URL.canParse(origin)) return 'foreign';
    const { host, origin: normalized } = new URL(origin);
    const own = publicUrl === undefined ? undefined : new URL(publicUrl);
    if (normalized === own?.origin) return 'same';
    // At the public address its scheme counts too: a page that came over HTTP may be anybody's.
    return host === header('host')?.toLowerCase() && host !== own?.host ? 'same' : 'foreign';
  }
  const site = header('sec-fetch-site');
  if (site === undefined) return 'unknown';
  return site === 'same-origin' || site === 'none' ? 'same' : 'foreign';
}
