import { rest } from '@torpor/protocol';
import type { Context } from 'hono';
import { html } from 'hono/html';
import { z } from 'zod';
import { requireUser } from '../../auth/principal.ts';
import type { LoggedIn, User } from '../../users/accounts.ts';
import type { LoginService } from '../../users/login.ts';
import type { PasswordResets } from '../../users/password-reset.ts';
import type { ProfileService } from '../../users/profile.ts';
import type { SessionService } from '../../users/sessions.ts';
import type { AppEnvironment } from '../environment.ts';
import { ACCOUNT_PATH, type ProviderLoginServices, startProviderLogin } from '../provider-login.ts';
import { clearedSessionCookie, isSecure } from '../session-cookie.ts';
import { sentences } from './failure.ts';
import { passwordLoginForm, providerForms } from './forms.ts';
import { respondWithPage } from './layout.ts';
import { type AddPage, fields, setSession, visitor } from './page.ts';

export interface AccountPageServices extends ProviderLoginServices {
  readonly login: LoginService;
  readonly sessions: SessionService;
  readonly profiles: ProfileService;
  readonly passwordResets: PasswordResets;
}

const returnToField = rest.startLoginQuerySchema.shape.return_to;
const loginForm = rest.loginSchema.omit({ mode: true }).extend({ return_to: returnToField });
const providerForm = z.strictObject({
  provider: z.string(),
  return_to: returnToField,
  invitation: z.string().max(128).optional(),
  link: z.literal('yes').optional(),
});

export function addAccountPages(add: AddPage, services: AccountPageServices): void {
  const { login, sessions, profiles, passwordResets } = services;
  add('GET', '/login', async (c) => {
    const principal = await visitor(c);
    const user = principal && (await profiles.find(principal));
    if (user !== undefined) return accountPage(c, services, user);
    const parsed = returnToField.safeParse(c.req.query('return_to'));
    return loginPage(c, services, (parsed.success && parsed.data) || ACCOUNT_PATH);
  });
  add('POST', '/login', async (c) => {
    const { return_to: returnTo = ACCOUNT_PATH, ...credentials } = await fields(c, loginForm);
    const loggedIn = await login
      .login(credentials, c.get('client'))
      .catch((reason: unknown) => reason);
    if (!isLoggedIn(loggedIn)) return loginPage(c, services, returnTo, loggedIn);
    setSession(c, services.web, loggedIn);
    return c.redirect(returnTo, 303);
  });
  add('POST', '/login/provider', async (c) => {
    const {
      provider,
      invitation,
      link,
      return_to: returnTo = ACCOUNT_PATH,
    } = await fields(c, providerForm);
    const sessionId =
      link === undefined ? undefined : requireUser(await c.get('authenticate')()).sessionId;
    const intent = { sessionId, invitation, returnTo };
    const { href } = await startProviderLogin(c, services, provider, intent);
    return respondWithPage(c, {
      title: 'Log in',
      goTo: href,
      body: html`<p><a href="${href}">Continue</a></p>`,
    });
  });
  add('POST', '/logout', async (c) => {
    await sessions.logout(await c.get('authenticate')());
    const secure = isSecure((name) => c.req.header(name), services.web.publicUrl);
    c.header('Set-Cookie', clearedSessionCookie(secure));
    return c.redirect(ACCOUNT_PATH, 303);
  });
  add('GET', '/reset', (c) =>
    respondWithPage(c, {
      title: 'Forgotten password',
      body: html`<form method="post" action="/reset">
<label for="email">Email address</label>
<input id="email" name="email" type="email" autocomplete="username" required>
<button>Send a link</button>
</form>`,
    }),
  );
  add('POST', '/reset', async (c) => {
    const { email } = await fields(c, rest.requestResetSchema);
    await passwordResets.request(email, c.get('client'));
    const body = html`<p>If there is an account with this address, a link is on its way to it.</p>`;
    return respondWithPage(c, { title: 'Forgotten password', body });
  });
}

function isLoggedIn(result: unknown): result is LoggedIn {
  return typeof result === 'object' && result !== null && 'session' in result;
}

function loginPage(
  c: Context<AppEnvironment>,
  { providers, passwordResets }: AccountPageServices,
  returnTo: string,
  failure?: unknown,
): Promise<Response> {
  return respondWithPage(c, {
    title: 'Log in',
    status: failure === undefined ? 200 : 401,
    body: [
      failure === undefined ? html`` : sentences(failure),
      passwordLoginForm(returnTo),
      ...providerForms(providers.all, 'Log in with', { return_to: returnTo }),
      passwordResets.isPossible ? html`<p><a href="/reset">Forgotten password</a></p>` : html``,
    ],
  });
}

function accountPage(
  c: Context<AppEnvironment>,
  { providers }: AccountPageServices,
  { name, email }: User,
): Promise<Response> {
  return respondWithPage(c, {
    title: 'Your account',
    body: [
      html`<p>You are logged in as ${name} (${email}).</p>
<p><a href="/device">Log a program in</a></p>`,
      ...providerForms(providers.all, 'Also log in with', { link: 'yes' }),
      html`<form method="post" action="/logout"><button>Log out</button></form>`,
    ],
  });
}
