/** Providers that tests make: they speak the protocols over loopback, with keys of their own. */
import { createHash, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { exportJWK, generateKeyPair, type JWTPayload, SignJWT, UnsecuredJWT } from 'jose';

export const CLIENT_ID = 'torpor';
export const CLIENT_SECRET = 'hush & secret';

/** A user as a provider knows it. */
export interface StandInUser {
  readonly subject: string;
  readonly email?: string;
  readonly verified?: boolean;
  readonly name?: string;
}

interface Grant {
  readonly user: StandInUser;
  readonly nonce: string | null;
  readonly challenge: string | null;
  readonly redirectUri: string | null;
}

type Json = Readonly<Record<string, unknown>>;

abstract class StandIn implements AsyncDisposable {
  /** Does not respond to any request, until it is disposed of. */
  isHanging = false;
  readonly requests: string[] = [];
  protected readonly grants = new Map<string, Grant>();
  readonly #server: Server;

  constructor() {
    this.#server = createServer((request, response) => {
      this.requests.push(request.url ?? '');
      if (this.isHanging) return;
      void this.#respond(request, response);
    });
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async listen(): Promise<this> {
    this.#server.listen(0, '127.0.0.1');
    await once(this.#server, 'listening');
    return this;
  }

  /** The user agrees: returns where the browser is sent. */
  authorize(url: URL, user: StandInUser): URL {
    const query = url.searchParams;
    const code = randomUUID();
    this.grants.set(code, {
      user,
      nonce: query.get('nonce'),
      challenge: query.get('code_challenge'),
      redirectUri: query.get('redirect_uri'),
    });
    const callback = new URL(query.get('redirect_uri') ?? '');
    callback.searchParams.set('code', code);
    callback.searchParams.set('state', query.get('state') ?? '');
    return callback;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    this.#server.close();
  }

  /** The grant of a code, once, for who has the verifier. */
  protected redeem(form: URLSearchParams): Grant | undefined {
    const code = form.get('code') ?? '';
    const grant = this.grants.get(code);
    this.grants.delete(code);
    const verifier = form.get('code_verifier') ?? '';
    const challenge = createHash('sha256').update(verifier).digest('base64url');
    const isValid =
      grant?.challenge === challenge && grant.redirectUri === form.get('redirect_uri');
    return isValid ? grant : undefined;
  }

  protected abstract handle(
    path: string,
    form: URLSearchParams,
    authorization: string,
  ): Promise<{ readonly status?: number; readonly body: Json | readonly Json[] }>;

  async #respond(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const form = new URLSearchParams(await text(request));
    const authorization = request.headers.authorization ?? '';
    const { pathname } = new URL(request.url ?? '', this.url);
    const { status = 200, body } = await this.handle(pathname, form, authorization);
    response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
  }
}

/** Changes of an ID token that make it wrong. */
export interface Forgery {
  readonly claims?: JWTPayload;
  /** `none`: without a signature. `foreign`: with a key that is not the provider's. */
  readonly signature?: 'none' | 'foreign';
}

export class StandInOidc extends StandIn {
  forgery: Forgery = {};
  readonly #keys = generateKeyPair('RS256');
  readonly #foreignKeys = generateKeyPair('RS256');

  protected async handle(path: string, form: URLSearchParams, authorization: string) {
    switch (path) {
      case '/.well-known/openid-configuration':
        return {
          body: {
            issuer: this.url,
            authorization_endpoint: `${this.url}/authorize`,
            token_endpoint: `${this.url}/token`,
            jwks_uri: `${this.url}/jwks`,
            response_types_supported: ['code'],
            subject_types_supported: ['public'],
            id_token_signing_alg_values_supported: ['RS256', 'none'],
          },
        };
      case '/jwks': {
        const { publicKey } = await this.#keys;
        return { body: { keys: [{ ...(await exportJWK(publicKey)), kid: '1', alg: 'RS256' }] } };
      }
      case '/token': {
        const credentials = [CLIENT_ID, CLIENT_SECRET]
          .map((part) => encodeURIComponent(part).replaceAll('%20', '+'))
          .join(':');
        const isClient = authorization === `Basic ${Buffer.from(credentials).toString('base64')}`;
        const grant = isClient ? this.redeem(form) : undefined;
        if (grant === undefined) return { status: 400, body: { error: 'invalid_grant' } };
        const idToken = await this.#idToken(grant);
        return { body: { access_token: 'at', token_type: 'Bearer', id_token: idToken } };
      }
      default:
        return { status: 404, body: {} };
    }
  }

  async #idToken({ user, nonce }: Grant): Promise<string> {
    const { subject, email, verified = true, name } = user;
    const now = Math.floor(Date.now() / 1000);
    const { claims: forged = {}, signature } = this.forgery;
    const claims = {
      iss: this.url,
      aud: CLIENT_ID,
      sub: subject,
      iat: now,
      exp: now + 60,
      nonce,
      ...(email === undefined ? {} : { email, email_verified: verified }),
      ...(name === undefined ? {} : { name }),
      ...forged,
    };
    if (signature === 'none') return new UnsecuredJWT(claims).encode();
    const { privateKey } = await (signature === 'foreign' ? this.#foreignKeys : this.#keys);
    return new SignJWT(claims).setProtectedHeader({ alg: 'RS256', kid: '1' }).sign(privateKey);
  }
}

/** A GitHub Enterprise Server. Subjects are numbers. */
export class StandInGithub extends StandIn {
  readonly #users = new Map<string, StandInUser>();

  protected async handle(path: string, form: URLSearchParams, authorization: string) {
    if (path === '/login/oauth/access_token') {
      const isClient = form.get('client_secret') === CLIENT_SECRET;
      const grant = isClient ? this.redeem(form) : undefined;
      // As GitHub does, with status 200.
      if (grant === undefined) return { body: { error: 'bad_verification_code' } };
      const token = randomUUID();
      this.#users.set(token, grant.user);
      return { body: { access_token: token, token_type: 'bearer', scope: 'read:user,user:email' } };
    }
    const user = this.#users.get(authorization.replace('Bearer ', ''));
    if (user === undefined) return { status: 401, body: {} };
    const { subject, email = '', verified = true, name = null } = user;
    if (path === '/api/v3/user')
      return { body: { id: Number(subject), login: `gh${subject}`, name } };
    return {
      body: [
        { email: 'other@example.com', primary: false, verified: true },
        { email, primary: true, verified },
      ],
    };
  }
}
