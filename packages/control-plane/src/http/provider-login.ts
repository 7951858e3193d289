import type { Context } from 'hono';
import type { IdentityService } from '../identities/identities.ts';
import {
  type LoginIntent,
  newBrowserSecret,
  type ProviderLogin,
} from '../identities/provider-login.ts';
import type { Providers } from '../identities/providers.ts';
import type { PasswordResets } from '../users/password-reset.ts';
import type { WebSettings } from './credentials.ts';
import type { AppEnvironment } from './environment.ts';
import { isSecure, loginCookie, secretInLoginCookie, sessionCookie } from './session-cookie.ts';

export interface ProviderLoginServices {
  readonly web: WebSettings;
  readonly providers: Providers;
  readonly providerLogin: ProviderLogin;
  readonly identities: IdentityService;
  readonly passwordResets: PasswordResets;
  readonly signUpOpen: boolean;
}

/** Where the browser goes if nobody has said where. */
export const ACCOUNT_PATH = '/login';

/** Returns where the browser is to go; the response sets the cookie that it needs. */
export async function startProviderLogin(
  c: Context<AppEnvironment>,
  { web, providerLogin }: Pick<ProviderLoginServices, 'web' | 'providerLogin'>,
  provider: string,
  intent: LoginIntent,
): Promise<URL> {
  const header = (name: string) => c.req.header(name);
  const secure = isSecure(header, web.publicUrl);
  // The same for several logins of one browser, so that none of its tabs disturbs another.
  const secret = secretInLoginCookie(header, secure) ?? newBrowserSecret();
  const url = await providerLogin.start(provider, intent, secret, c.get('client'));
  c.header('Set-Cookie', loginCookie(secret, secure));
  c.header('Cache-Control', 'no-store');
  return url;
}

/** Returns the path where the browser is to go; the response sets the cookie of the session. */
export async function finishProviderLogin(
  c: Context<AppEnvironment>,
  { web, providerLogin }: ProviderLoginServices,
  provider: string,
): Promise<string> {
  const header = (name: string) => c.req.header(name);
  const secure = isSecure(header, web.publicUrl);
  const { search } = new URL(c.req.url);
  const secret = secretInLoginCookie(header, secure);
  const finished = await providerLogin.finish(provider, search, secret, c.get('client'));
  const { loggedIn, returnTo } = finished;
  if (loggedIn !== undefined) {
    c.header('Set-Cookie', sessionCookie(loggedIn.token, loggedIn.session.expires_at, secure));
  }
  return returnTo;
}
