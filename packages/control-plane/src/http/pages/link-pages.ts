import { rest } from '@torpor/protocol';
import type { Context } from 'hono';
import { html } from 'hono/html';
import { z } from 'zod';
import type { AttemptLimiter } from '../../auth/attempts.ts';
import type { Providers } from '../../identities/providers.ts';
import type { InvitationService } from '../../teams/invitations.ts';
import { clientAttempt } from '../../users/accounts.ts';
import type { ProfileService } from '../../users/profile.ts';
import type { SignUpService } from '../../users/sign-up.ts';
import type { WebSettings } from '../credentials.ts';
import type { AppEnvironment } from '../environment.ts';
import { ACCOUNT_PATH } from '../provider-login.ts';
import { hidden, newPasswordField, providerForms, tokenField } from './forms.ts';
import { respondWithPage } from './layout.ts';
import { type AddPage, fields, setSession, visitor } from './page.ts';

export interface LinkPageServices {
  readonly web: WebSettings;
  readonly limiter: AttemptLimiter;
  readonly providers: Providers;
  readonly invitations: InvitationService;
  readonly signUp: SignUpService;
  readonly profiles: ProfileService;
}

const { email, name, password } = rest.signUpSchema.shape;
const tokenForm = rest.invitationTokenSchema;
const signUpForm = z.strictObject({
  token: z.string().max(128),
  email,
  name,
  new_password: password,
});

export function addLinkPages(add: AddPage, services: LinkPageServices): void {
  const { web, limiter, invitations, signUp, profiles } = services;
  add('GET', '/join', (c) =>
    respondWithPage(c, {
      title: 'Join a team',
      takesToken: true,
      body: html`<form method="post" action="/join">
${tokenField('The part of your link after the #')}
<button>Continue</button>
</form>`,
    }),
  );
  add('POST', '/join', async (c) => {
    const { token } = await fields(c, tokenForm);
    await limiter.take([clientAttempt(c.get('client'))]);
    return invitationPage(c, services, token);
  });
  add('POST', '/join/accept', async (c) => {
    const { token } = await fields(c, tokenForm);
    await invitations.accept(await c.get('authenticate')(), token);
    return respondWithPage(c, {
      title: 'Join a team',
      body: html`<p>You are in the team now. <a href="${ACCOUNT_PATH}">Your account</a></p>`,
    });
  });
  add('POST', '/join/sign-up', async (c) => {
    const { token: invitation, new_password: chosen, ...user } = await fields(c, signUpForm);
    const request = { ...user, password: chosen, invitation };
    setSession(c, web, await signUp.signUp(request, c.get('client')));
    return c.redirect(ACCOUNT_PATH, 303);
  });
  add('GET', '/password', (c) =>
    respondWithPage(c, {
      title: 'Set a password',
      takesToken: true,
      body: html`<form method="post" action="/password">
${tokenField('The part of your link after the #')}
${newPasswordField()}
<button>Set the password</button>
</form>`,
    }),
  );
  add('POST', '/password', async (c) => {
    const { token, new_password: chosen } = await fields(c, rest.setPasswordSchema);
    await profiles.setPassword(token, chosen, c.get('client'));
    return respondWithPage(c, {
      title: 'Set a password',
      body: html`<p>The password is set. <a href="${ACCOUNT_PATH}">Log in</a></p>`,
    });
  });
}

async function invitationPage(
  c: Context<AppEnvironment>,
  { invitations, providers, profiles }: LinkPageServices,
  token: string,
): Promise<Response> {
  const { team_name: team, role, email: address } = await invitations.preview(token);
  const principal = await visitor(c);
  const user = principal && (await profiles.find(principal));
  const what = html`<p>An invitation to the team <strong>${team}</strong> as ${role}.</p>`;
  if (user !== undefined) {
    const accept = html`<form method="post" action="/join/accept">
${hidden('token', token)}
<button>Join as ${user.email}</button>
</form>`;
    return respondWithPage(c, { title: 'Join a team', body: [what, accept] });
  }
  const account = html`<p>If you have an account, <a href="${ACCOUNT_PATH}">log in</a> and open the link again.
Otherwise make one:</p>
<form method="post" action="/join/sign-up">
${hidden('token', token)}
<label for="email">Email address</label>
<input id="email" name="email" type="email" autocomplete="username" value="${address ?? ''}" required>
<label for="name">Your name</label>
<input id="name" name="name" autocomplete="name" required>
${newPasswordField()}
<button>Join</button>
</form>`;
  const forms = providerForms(providers.all, 'Join with', { invitation: token });
  return respondWithPage(c, { title: 'Join a team', body: [what, account, ...forms] });
}
