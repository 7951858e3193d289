/**
 * Logins with other services. Between the request that sends a browser to a provider and the
 * one with which it returns, there is a row: found by `state`, used up by the first that names it,
 * valid for {@link LIFETIME_MS}, and only in the browser that has the cookie with which it began.
 * So nobody can be logged in to an account of another (RFC 9700, section 4.7), and any control
 * plane can go on with it.
 */
import { randomBytes } from 'node:crypto';
import { TorporError } from '@torpor/protocol';
import type { Client } from '../auth/sessions.ts';
import { hashToken } from '../auth/tokens.ts';
import type { ProviderId } from '../database/schema.ts';
import { clientAttempt, type LoggedIn } from '../users/accounts.ts';
import { linkProfile } from './link-profile.ts';
import type { Provider } from './provider.ts';
import type { ProviderLoginParts } from './provider-login-parts.ts';
import { settleLogin } from './settle-login.ts';

const LIFETIME_MS = 10 * 60_000;
const PURPOSE = 'oauth';

export interface LoginIntent {
  /** Of the user who gets another way to log in; undefined to log in. */
  readonly sessionId?: string | undefined;
  /** The token of an invitation. */
  readonly invitation?: string | undefined;
  /** A path of this server, where the browser goes at last. */
  readonly returnTo: string;
}

interface Sealed extends Omit<LoginIntent, 'sessionId'> {
  readonly nonce: string;
  readonly verifier: string;
}

export interface FinishedLogin {
  /** Undefined if the user was logged in before. */
  readonly loggedIn: LoggedIn | undefined;
  readonly returnTo: string;
}

/** What a browser gets as a cookie when it has none. */
export function newBrowserSecret(): string {
  return randomBytes(32).toString('base64url');
}

export class ProviderLogin {
  readonly #parts: ProviderLoginParts;

  constructor(parts: ProviderLoginParts) {
    this.#parts = parts;
  }

  /** Where the browser is to go. Throws `not_found`, `rate_limited`, `provider_unavailable`. */
  async start(
    providerId: string,
    { sessionId, invitation, returnTo }: LoginIntent,
    browserSecret: string,
    client: Client,
  ): Promise<URL> {
    const { db, limiter, providers, secrets } = this.#parts;
    const provider = providers.find(providerId);
    await limiter.take([clientAttempt(client)]);
    const [state, nonce, verifier] = [random(), random(), random()];
    const url = await provider.authorizationUrl(
      { state, nonce, verifier },
      this.#redirectUri(provider.id),
    );
    const sealed: Sealed = { nonce, verifier, invitation, returnTo };
    await db
      .insertInto('oauth_attempts')
      .values({
        state_hash: hashToken(state),
        browser_hash: hashToken(browserSecret),
        provider: provider.id,
        session_id: sessionId ?? null,
        sealed: secrets.seal(PURPOSE, JSON.stringify(sealed)),
        expires_at: new Date(Date.now() + LIFETIME_MS),
      })
      .execute();
    return url;
  }

  /**
   * Goes on with what the provider says. `search`: the query with which the browser came back.
   * Throws `forbidden`, `conflict` if the account cannot be used here, `provider_unavailable`.
   */
  async finish(
    providerId: string,
    search: string,
    browserSecret: string | undefined,
    client: Client,
  ): Promise<FinishedLogin> {
    const provider = this.#parts.providers.find(providerId);
    const state = new URLSearchParams(search).get('state') ?? '';
    const { sessionId, ...attempt } = await this.#claim(provider, state, browserSecret);
    const callback = new URL(this.#redirectUri(provider.id));
    callback.search = search;
    const { nonce, verifier, invitation, returnTo } = attempt;
    const profile = await provider
      .identify(callback, { state, nonce, verifier })
      .catch((reason: unknown) => {
        const err = TorporError.from(reason);
        this.#parts.logger.warn({ provider: provider.id, err }, 'Login with a provider failed');
        throw reason;
      });
    const login = { provider, profile, invitation, client };
    if (sessionId !== null) {
      await linkProfile(this.#parts, login, sessionId);
      return { loggedIn: undefined, returnTo };
    }
    return { loggedIn: await settleLogin(this.#parts, login), returnTo };
  }

  async #claim(
    provider: Provider,
    state: string,
    browserSecret: string | undefined,
  ): Promise<Sealed & { readonly sessionId: string | null }> {
    const { db, secrets } = this.#parts;
    const row = await db
      .deleteFrom('oauth_attempts')
      .where('state_hash', '=', hashToken(state))
      .where('browser_hash', '=', hashToken(browserSecret ?? ''))
      .where('provider', '=', provider.id)
      .where('expires_at', '>', new Date())
      .returning(['sealed', 'session_id'])
      .executeTakeFirst();
    if (row === undefined) {
      throw new TorporError(
        'forbidden',
        'This login was not begun in this browser, was finished already, or has expired.',
        { remedy: 'Log in again, with cookies allowed.' },
      );
    }
    const sealed = JSON.parse(secrets.open(PURPOSE, row.sealed)) as Sealed;
    return { ...sealed, sessionId: row.session_id };
  }

  #redirectUri(id: ProviderId): string {
    return `${this.#parts.publicUrl}/v1/auth/oauth/${id}/callback`;
  }
}

function random(): string {
  return randomBytes(32).toString('base64url');
}
