import * as client from 'openid-client';
import type { ConfiguredProviders } from '../config/combined.ts';
import {
  authorizationParameters,
  emailOf,
  type LoginChecks,
  PROVIDER_TIMEOUT_SEC,
  type Provider,
  type ProviderProfile,
  providerError,
} from './provider.ts';

const SCOPE = 'openid email profile';
/** How far the provider's clock may be from this one. */
const CLOCK_TOLERANCE_SEC = 30;
/** How long what the provider says of itself is used; its keys are fetched when one is not known. */
const METADATA_LIFETIME_MS = 3_600_000;

type Settings = NonNullable<ConfiguredProviders['oidc']>;

/** Any provider of OpenID Connect: the flow with a code, PKCE, a nonce, and an ID token whose signature is verified. */
export class OidcProvider implements Provider {
  readonly id = 'oidc';
  readonly name: string;
  readonly #settings: Settings;
  #known:
    | { readonly configuration: Promise<client.Configuration>; readonly at: number }
    | undefined;

  constructor(settings: Settings) {
    this.name = settings.name;
    this.#settings = settings;
  }

  async authorizationUrl(checks: LoginChecks, redirectUri: string): Promise<URL> {
    try {
      const parameters = await authorizationParameters(checks, redirectUri, SCOPE);
      return client.buildAuthorizationUrl(await this.#configuration(), parameters);
    } catch (reason) {
      throw providerError(this.name, reason);
    }
  }

  async identify(callback: URL, { state, nonce, verifier }: LoginChecks): Promise<ProviderProfile> {
    try {
      const configuration = await this.#configuration();
      const tokens = await client.authorizationCodeGrant(configuration, callback, {
        expectedState: state,
        expectedNonce: nonce,
        pkceCodeVerifier: verifier,
        idTokenExpected: true,
      });
      const claims = tokens.claims();
      if (claims === undefined) throw new Error('There is no ID token.');
      const isComplete =
        claims.email !== undefined ||
        configuration.serverMetadata().userinfo_endpoint === undefined;
      const user = isComplete
        ? claims
        : await client.fetchUserInfo(configuration, tokens.access_token, claims.sub);
      return profileOf(claims.iss, claims.sub, user);
    } catch (reason) {
      throw providerError(this.name, reason);
    }
  }

  #configuration(): Promise<client.Configuration> {
    const known = this.#known;
    if (known !== undefined && Date.now() - known.at < METADATA_LIFETIME_MS) {
      return known.configuration;
    }
    const configuration = this.#discover();
    const current = { configuration, at: Date.now() };
    this.#known = current;
    configuration.catch(() => {
      if (this.#known === current) this.#known = undefined;
    });
    return configuration;
  }

  #discover(): Promise<client.Configuration> {
    const { url, clientId, clientSecret } = this.#settings;
    const issuer = new URL(url);
    const metadata = { [client.clockTolerance]: CLOCK_TOLERANCE_SEC };
    return client.discovery(issuer, clientId, metadata, secretAuth(clientSecret), {
      timeout: PROVIDER_TIMEOUT_SEC,
      execute: [
        // Otherwise the connection is taken as proof of who has made the ID token.
        client.enableNonRepudiationChecks,
        // The setting allows HTTP for this machine only.
        ...(issuer.protocol === 'http:' ? [client.allowInsecureRequests] : []),
      ],
    });
  }
}

/** In the header, which every provider has to support, or in the body for one that says it does only that. */
function secretAuth(secret: string): client.ClientAuth {
  const basic = client.ClientSecretBasic(secret);
  const post = client.ClientSecretPost(secret);
  return (server, ...rest) => {
    const methods = server.token_endpoint_auth_methods_supported ?? ['client_secret_basic'];
    return (methods.includes('client_secret_basic') ? basic : post)(server, ...rest);
  };
}

function profileOf(
  issuer: string,
  subject: string,
  {
    email,
    email_verified: isVerified,
    name,
    preferred_username: username,
  }: Record<string, unknown>,
): ProviderProfile {
  const address = emailOf(email);
  return {
    issuer,
    subject,
    email: isVerified === true ? address : undefined,
    name: typeof name === 'string' ? name : undefined,
    label: address ?? (typeof username === 'string' ? username : subject),
  };
}
