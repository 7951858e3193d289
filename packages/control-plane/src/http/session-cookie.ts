import type { HeaderLookup } from './browser-origin.ts';

const NAME = 'torpor_session';

/** Whether the browser's connection is encrypted: by a proxy, since this server speaks HTTP. */
export function isSecure(header: HeaderLookup, publicUrl: string | undefined): boolean {
  return (
    publicUrl?.startsWith('https:') === true || /^https\b/.test(header('x-forwarded-proto') ?? '')
  );
}

/** The prefix makes browsers refuse such a cookie from other hosts of the domain and from HTTP. */
function nameOf(secure: boolean): string {
  return secure ? `__Host-${NAME}` : NAME;
}

/** A cookie that scripts cannot read and that other sites' requests do not carry, but for links. */
export function sessionCookie(token: string, expiresAt: Date, secure: boolean): string {
  return `${nameOf(secure)}=${token}; Path=/; Expires=${expiresAt.toUTCString()}; HttpOnly; SameSite=Lax${secure ? '; Secure' : ''}`;
}

export function clearedSessionCookie(secure: boolean): string {
  return sessionCookie('', new Date(0), secure);
}

/** The token in the cookie of a request. */
export function tokenInCookie(header: HeaderLookup, secure: boolean): string | undefined {
  return cookieIn(header, nameOf(secure));
}

/** Ties a login with another service to the browser in which it was begun. */
export function loginCookie(secret: string, secure: boolean): string {
  return `${loginNameOf(secure)}=${secret}; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax${secure ? '; Secure' : ''}`;
}

export function secretInLoginCookie(header: HeaderLookup, secure: boolean): string | undefined {
  const value = cookieIn(header, loginNameOf(secure));
  return value !== undefined && /^[\w-]{43}$/.test(value) ? value : undefined;
}

function loginNameOf(secure: boolean): string {
  return `${secure ? '__Host-' : ''}torpor_login`;
}

function cookieIn(header: HeaderLookup, name: string): string | undefined {
  for (const pair of (header('cookie') ?? '').split(';')) {
    const separator = pair.indexOf('=');
    if (pair.slice(0, separator).trim() === name) return pair.slice(separator + 1).trim();
  }
  return undefined;
}
