import * as client from 'openid-client';
import { z } from 'zod';
import type { ConfiguredClient } from '../config/combined.ts';
import {
  authorizationParameters,
  emailOf,
  type LoginChecks,
  PROVIDER_TIMEOUT_SEC,
  type Provider,
  type ProviderProfile,
  providerError,
} from './provider.ts';

const SCOPE = 'read:user user:email';

const userSchema = z.object({
  id: z.number().int().positive(),
  login: z.string(),
  name: z.string().nullish(),
});

const emailsSchema = z.array(
  z.object({ email: z.string(), primary: z.boolean(), verified: z.boolean() }),
);

/** An OAuth app of GitHub or of a GitHub Enterprise Server. */
export class GithubProvider implements Provider {
  readonly id = 'github';
  readonly name = 'GitHub';
  readonly #url: string;
  readonly #apiUrl: string;
  readonly #configuration: client.Configuration;

  constructor({ url, clientId, clientSecret }: ConfiguredClient) {
    this.#url = url.replace(/\/$/, '');
    this.#apiUrl =
      this.#url === 'https://github.com' ? 'https://api.github.com' : `${this.#url}/api/v3`;
    const server = {
      issuer: `${this.#url}/login/oauth`,
      authorization_endpoint: `${this.#url}/login/oauth/authorize`,
      token_endpoint: `${this.#url}/login/oauth/access_token`,
    };
    const auth = client.ClientSecretPost(clientSecret);
    this.#configuration = new client.Configuration(server, clientId, {}, auth);
    this.#configuration.timeout = PROVIDER_TIMEOUT_SEC;
    // The setting allows HTTP for this machine only.
    if (this.#url.startsWith('http:')) client.allowInsecureRequests(this.#configuration);
  }

  async authorizationUrl(checks: LoginChecks, redirectUri: string): Promise<URL> {
    const { nonce: _, ...parameters } = await authorizationParameters(checks, redirectUri, SCOPE);
    return client.buildAuthorizationUrl(this.#configuration, parameters);
  }

  async identify(callback: URL, { state, verifier }: LoginChecks): Promise<ProviderProfile> {
    try {
      const checks = { expectedState: state, pkceCodeVerifier: verifier };
      const { access_token: token } = await client.authorizationCodeGrant(
        this.#configuration,
        callback,
        checks,
      );
      const user = userSchema.parse(await this.#get('/user', token));
      const emails = emailsSchema.parse(await this.#get('/user/emails', token));
      const primary = emails.find((entry) => entry.primary && entry.verified);
      return {
        issuer: this.#url,
        subject: String(user.id),
        email: emailOf(primary?.email),
        name: user.name ?? undefined,
        label: user.login,
      };
    } catch (reason) {
      throw providerError(this.name, reason);
    }
  }

  async #get(path: string, token: string): Promise<unknown> {
    const response = await fetch(`${this.#apiUrl}${path}`, {
      headers: {
        accept: 'application/vnd.github+json',
        authorization: `Bearer ${token}`,
        'user-agent': 'Torpor',
      },
      redirect: 'error',
      signal: AbortSignal.timeout(PROVIDER_TIMEOUT_SEC * 1000),
    });
    if (!response.ok) throw new Error(`${path} returned status ${response.status}.`);
    return response.json();
  }
}
