import { TorporError } from '@torpor/protocol';
import type { ApiKeyStore } from './api-keys.ts';
import type { Principal } from './principal.ts';
import type { SessionStore } from './sessions.ts';
import { TOKEN_PREFIXES } from './tokens.ts';

/** What a request shows for itself. */
export interface Credentials {
  readonly apiKey?: string | undefined;
  /** Of a cookie, or of the header Authorization. */
  readonly sessionToken?: string | undefined;
  /** The team that the request is about; that of the key or session if undefined. */
  readonly teamId?: string | undefined;
}

/** Turns credentials into principals: keys, and the sessions of users. */
export class Authenticator {
  readonly #apiKeys: ApiKeyStore;
  readonly #sessions: SessionStore;

  constructor(apiKeys: ApiKeyStore, sessions: SessionStore) {
    this.#apiKeys = apiKeys;
    this.#sessions = sessions;
  }

  /** An API key counts before a session. Throws `unauthorized`; `not_found` for a team that the caller is not in. */
  async authenticate({ apiKey, sessionToken, teamId }: Credentials): Promise<Principal> {
    if (apiKey === undefined && sessionToken !== undefined) {
      return this.#sessions.authenticate(sessionToken, teamId);
    }
    const principal = await this.#apiKeys.authenticate(apiKey);
    if (teamId !== undefined && teamId !== principal.teamId) {
      throw new TorporError('not_found', 'The API key belongs to another team, or there is none.');
    }
    return principal;
  }

  /** The principal of a key or of the token of a session, whichever it is. */
  authenticateToken(token: string): Promise<Principal> {
    return this.authenticate(credentialsOfToken(token));
  }
}

/** A token that is either that of a session or an API key. */
export function credentialsOfToken(token: string): Credentials {
  const isSession = token.startsWith(TOKEN_PREFIXES.session);
  return isSession ? { sessionToken: token } : { apiKey: token };
}
