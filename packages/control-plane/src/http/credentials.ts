import { TorporError } from '@torpor/protocol';
import { type Credentials, credentialsOfToken } from '../auth/authenticator.ts';
import { type HeaderLookup, originOf } from './browser-origin.ts';
import { isSecure, tokenInCookie } from './session-cookie.ts';

/** How browsers and proxies reach this server. */
export interface WebSettings {
  /** Where browsers find the server, if it is not the host name of their requests. */
  readonly publicUrl: string | undefined;
  /** Networks of proxies whose X-Forwarded-For is believed, in CIDR notation. */
  readonly trustedProxies: readonly string[];
}

/**
 * The credentials of a request: `X-API-Key`, `Authorization: Bearer` with a key or the token
 * of a session, or the session's cookie; `X-Team-Id` names a team. A cookie counts only if the
 * request is from a page of this server, because browsers send it with requests of other pages
 * too. `isReading`: the request changes nothing, so it need not say where it is from. Throws
 * `forbidden`.
 */
export function credentialsOf(
  header: HeaderLookup,
  { publicUrl }: WebSettings,
  isReading: boolean,
): Credentials {
  const teamId = header('x-team-id');
  const apiKey = header('x-api-key');
  if (apiKey !== undefined) return { apiKey, teamId };
  const [, bearer] = /^Bearer +(\S+)$/i.exec(header('authorization') ?? '') ?? [];
  if (bearer !== undefined) return { ...credentialsOfToken(bearer), teamId };
  const sessionToken = tokenInCookie(header, isSecure(header, publicUrl));
  if (sessionToken === undefined) return {};
  const origin = originOf(header, publicUrl);
  if (origin === 'same' || (isReading && origin === 'unknown')) return { sessionToken, teamId };
  throw foreignOrigin();
}

/** Throws `forbidden` for a request that another site's page makes: it could log a user in to its own account. */
export function assertNotForeign(header: HeaderLookup, { publicUrl }: WebSettings): void {
  if (originOf(header, publicUrl) === 'foreign') throw foreignOrigin();
}

function foreignOrigin(): TorporError {
  return new TorporError('forbidden', 'The request is not from a page of this server.', {
    remedy:
      'Open the server at its own address; behind a proxy, set public_url to that. Programs use an API key, or the token of a session as `Authorization: Bearer`.',
  });
}
