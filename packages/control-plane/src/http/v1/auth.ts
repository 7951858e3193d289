import { rest } from '@torpor/protocol';
import { z } from 'zod';
import { requireUser } from '../../auth/principal.ts';
import type { LoginService } from '../../users/login.ts';
import type { PasswordResets } from '../../users/password-reset.ts';
import type { ProfileService } from '../../users/profile.ts';
import type { SessionService } from '../../users/sessions.ts';
import type { SignUpService } from '../../users/sign-up.ts';
import type { WebSettings } from '../credentials.ts';
import { type Api, addEndpoint, defineEndpoint, jsonResponse } from '../endpoint.ts';
import { clearedSessionCookie, isSecure } from '../session-cookie.ts';
import { presentSession, presentStartedSession } from './present-accounts.ts';

const TAG = 'Accounts';

const SIGN_UP = defineEndpoint({
  method: 'post',
  path: '/v1/auth/signup',
  operationId: 'signUp',
  access: 'public',
  summary: 'Make an account, and begin a session',
  description:
    'Only with an invitation, unless the setting `sign_up` lets everyone make one. Without an invitation the account gets a team of its own.',
  tag: TAG,
  body: rest.signUpSchema,
  responses: { 201: jsonResponse('The session has begun.', rest.startedSessionSchema) },
});

const LOGIN = defineEndpoint({
  method: 'post',
  path: '/v1/auth/login',
  operationId: 'login',
  access: 'public',
  summary: 'Begin a session with an email address and a password',
  description: 'Attempts are limited for each account and client: `rate_limited`.',
  tag: TAG,
  body: rest.loginSchema,
  responses: { 200: jsonResponse('The session has begun.', rest.startedSessionSchema) },
});

const LOGOUT = defineEndpoint({
  method: 'post',
  path: '/v1/auth/logout',
  operationId: 'logout',
  access: 'user',
  summary: 'End the session',
  tag: TAG,
  responses: { 204: { description: 'The session is refused from now on.' } },
});

const LIST_SESSIONS = defineEndpoint({
  method: 'get',
  path: '/v1/auth/sessions',
  operationId: 'listSessions',
  access: 'user',
  summary: 'List your sessions, newest first',
  tag: TAG,
  responses: { 200: jsonResponse('The sessions.', rest.sessionListSchema) },
});

const REVOKE_SESSION = defineEndpoint({
  method: 'delete',
  path: '/v1/auth/sessions/{id}',
  operationId: 'revokeSession',
  access: 'user',
  summary: 'End one of your sessions: it is refused from the next request on',
  tag: TAG,
  params: z.object({ id: z.string() }),
  responses: { 204: { description: 'The session has ended.' } },
});

const SWITCH_TEAM = defineEndpoint({
  method: 'post',
  path: '/v1/auth/switch-team',
  operationId: 'switchTeam',
  access: 'user',
  summary: 'Choose the team in which the requests of the session act',
  tag: TAG,
  body: rest.switchTeamSchema,
  responses: { 204: { description: 'They act in this team now.' } },
});

const SET_PASSWORD = defineEndpoint({
  method: 'post',
  path: '/v1/auth/password',
  operationId: 'setPasswordByLink',
  access: 'public',
  summary: 'Set a password with a link, which works once',
  description: 'All sessions of the user end.',
  tag: TAG,
  body: rest.setPasswordSchema,
  responses: { 204: { description: 'The password is set.' } },
});

const REQUEST_RESET = defineEndpoint({
  method: 'post',
  path: '/v1/auth/password-reset',
  operationId: 'requestPasswordReset',
  access: 'public',
  summary: 'Send a link that sets a new password to the email address of an account',
  description:
    'The response is the same if there is no such account. `not_implemented` if the server sends no mail.',
  tag: TAG,
  body: rest.requestResetSchema,
  responses: { 202: { description: 'The mail is sent if there is an account.' } },
});

export interface AuthServices {
  readonly web: WebSettings;
  readonly login: LoginService;
  readonly signUp: SignUpService;
  readonly sessions: SessionService;
  readonly profiles: ProfileService;
  readonly passwordResets: PasswordResets;
}

export function addAuthRoutes(api: Api, services: AuthServices): void {
  const { web, login, signUp, sessions, profiles, passwordResets } = services;
  addEndpoint(api, SIGN_UP, async (c, { body: { mode, ...request } }) => {
    c.get('assertNotForeign')();
    const started = await signUp.signUp(request, c.get('client'));
    return c.json(presentStartedSession(c, started, mode, web), 201);
  });
  addEndpoint(api, LOGIN, async (c, { body: { mode, ...request } }) => {
    c.get('assertNotForeign')();
    const started = await login.login(request, c.get('client'));
    return c.json(presentStartedSession(c, started, mode, web));
  });
  addEndpoint(api, LOGOUT, async (c) => {
    await sessions.logout(c.get('principal'));
    const secure = isSecure((name) => c.req.header(name), web.publicUrl);
    c.header('Set-Cookie', clearedSessionCookie(secure));
    return c.body(null, 204);
  });
  addEndpoint(api, LIST_SESSIONS, async (c) => {
    const principal = c.get('principal');
    const { sessionId } = requireUser(principal);
    const found = await sessions.list(principal);
    return c.json(found.map((session) => presentSession(session, sessionId)));
  });
  addEndpoint(api, REVOKE_SESSION, async (c, { params }) => {
    await sessions.revoke(c.get('principal'), params.id);
    return c.body(null, 204);
  });
  addEndpoint(api, SWITCH_TEAM, async (c, { body }) => {
    await sessions.switchTeam(await c.get('authenticate')(body.team_id));
    return c.body(null, 204);
  });
  addEndpoint(api, SET_PASSWORD, async (c, { body }) => {
    c.get('assertNotForeign')();
    await profiles.setPassword(body.token, body.new_password, c.get('client'));
    return c.body(null, 204);
  });
  addEndpoint(api, REQUEST_RESET, async (c, { body }) => {
    c.get('assertNotForeign')();
    await passwordResets.request(body.email, c.get('client'));
    return c.body(null, 202);
  });
}
