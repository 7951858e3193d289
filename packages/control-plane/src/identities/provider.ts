import { emailSchema, TorporError } from '@torpor/protocol';
import * as client from 'openid-client';
import type { ProviderId } from '../database/schema.ts';

/** How long a provider may take for a response, in seconds. */
export const PROVIDER_TIMEOUT_SEC = 10;

/** What a provider says of its user. */
export interface ProviderProfile {
  readonly issuer: string;
  readonly subject: string;
  /** In lower case; undefined unless the provider has verified it. */
  readonly email: string | undefined;
  readonly name: string | undefined;
  /** How people call the account. */
  readonly label: string;
}

/** What binds the response of a provider to the request that asked for it. */
export interface LoginChecks {
  readonly state: string;
  readonly nonce: string;
  /** Of PKCE (RFC 7636). */
  readonly verifier: string;
}

/** A service that users can log in with. */
export interface Provider {
  readonly id: ProviderId;
  readonly name: string;
  /** Where the browser is to go. Throws `provider_unavailable`. */
  authorizationUrl(checks: LoginChecks, redirectUri: string): Promise<URL>;
  /**
   * Who the user is that came back with `callback`: the redirect URI with the provider's
   * parameters. Throws `forbidden` if the user declined, or what the provider says does not fit
   * the checks; `provider_unavailable`.
   */
  identify(callback: URL, checks: LoginChecks): Promise<ProviderProfile>;
}

/** An email address as accounts have it; undefined for anything else. */
export function emailOf(value: unknown): string | undefined {
  const parsed = emailSchema.safeParse(value);
  return parsed.success ? parsed.data : undefined;
}

export async function authorizationParameters(
  { state, nonce, verifier }: LoginChecks,
  redirectUri: string,
  scope: string,
): Promise<Record<string, string>> {
  return {
    redirect_uri: redirectUri,
    scope,
    state,
    nonce,
    code_challenge: await client.calculatePKCECodeChallenge(verifier),
    code_challenge_method: 'S256',
  };
}

/** Why a login with a provider failed, as an error of this API. Nothing of the provider's response is in its message. */
export function providerError(provider: string, reason: unknown): TorporError {
  if (reason instanceof TorporError) return reason;
  if (reason instanceof client.AuthorizationResponseError) {
    return new TorporError('forbidden', `${provider} did not confirm who you are.`, {
      remedy: 'Log in again, and allow it there.',
      cause: reason,
    });
  }
  if (isOutage(reason)) {
    return new TorporError('provider_unavailable', `${provider} does not respond as it should.`, {
      cause: reason,
    });
  }
  return new TorporError('forbidden', `What ${provider} said of you is not valid.`, {
    remedy: 'Log in again. If it stays so, the operator must check the settings of the provider.',
    cause: reason,
  });
}

/** Whether the provider could not be reached or had no time, in contrast to a response that is refused. */
function isOutage(reason: unknown): boolean {
  if (reason instanceof client.ResponseBodyError) return reason.status >= 500;
  if (!(reason instanceof client.ClientError)) return true;
  return ['OAUTH_TIMEOUT', 'OAUTH_ABORT', 'OAUTH_RESPONSE_IS_NOT_CONFORM'].includes(
    reason.code ?? '',
  );
}
