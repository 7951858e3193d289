import { rest } from '@torpor/protocol';
import { z } from 'zod';
import { requireUser } from '../../auth/principal.ts';
import type { Identity } from '../../identities/identities.ts';
import { type Api, addEndpoint, defineEndpoint, jsonResponse } from '../endpoint.ts';
import { failurePage, wantsPage } from '../pages/failure.ts';
import {
  ACCOUNT_PATH,
  finishProviderLogin,
  type ProviderLoginServices,
  startProviderLogin,
} from '../provider-login.ts';

const TAG = 'Accounts';

const OPTIONS = defineEndpoint({
  method: 'get',
  path: '/v1/auth/providers',
  operationId: 'listLoginProviders',
  access: 'public',
  summary: 'Say how users can log in',
  tag: TAG,
  responses: { 200: jsonResponse('The ways.', rest.loginOptionsSchema) },
});

const BEGIN = defineEndpoint({
  method: 'get',
  path: '/v1/auth/oauth/{provider}/start',
  operationId: 'beginProviderLogin',
  access: 'public',
  summary: 'Send the browser to a provider, to log in',
  tag: TAG,
  params: rest.providerParamsSchema,
  query: rest.startLoginQuerySchema,
  responses: { 303: { description: 'To the provider.' } },
});

const START = defineEndpoint({
  method: 'post',
  path: '/v1/auth/oauth/{provider}/start',
  operationId: 'startProviderLogin',
  access: 'public',
  summary:
    'Say where the browser is to go to log in with a provider, or to sign up with an invitation',
  description: 'The response sets a cookie without which the login cannot be finished.',
  tag: TAG,
  params: rest.providerParamsSchema,
  body: rest.startLoginSchema,
  responses: { 200: jsonResponse('The address.', rest.providerUrlSchema) },
});

const CALLBACK = defineEndpoint({
  method: 'get',
  path: '/v1/auth/oauth/{provider}/callback',
  operationId: 'finishProviderLogin',
  access: 'public',
  summary: 'Where a provider sends the browser back',
  description:
    'Begins a session with a cookie. The redirect URI to register at the provider is this path below `public_url`.',
  tag: TAG,
  params: rest.providerParamsSchema,
  responses: { 303: { description: 'To the path that the login was started with.' } },
});

const LIST = defineEndpoint({
  method: 'get',
  path: '/v1/me/identities',
  operationId: 'listIdentities',
  access: 'user',
  summary: 'List the logins of other services that are yours',
  tag: TAG,
  responses: { 200: jsonResponse('The logins, oldest first.', rest.identityListSchema) },
});

const LINK = defineEndpoint({
  method: 'post',
  path: '/v1/me/identities',
  operationId: 'linkIdentity',
  access: 'user',
  summary: 'Say where the browser is to go to make the login of a provider one of yours',
  description: 'The response sets a cookie without which it cannot be finished.',
  tag: TAG,
  body: rest.linkIdentitySchema,
  responses: { 200: jsonResponse('The address.', rest.providerUrlSchema) },
});

const UNLINK = defineEndpoint({
  method: 'delete',
  path: '/v1/me/identities/{id}',
  operationId: 'unlinkIdentity',
  access: 'user',
  summary: 'Remove a login of another service',
  description: 'Refused with `conflict` if you could not log in any more.',
  tag: TAG,
  params: z.object({ id: z.string() }),
  responses: { 204: { description: 'It cannot be used to log in any more.' } },
});

export function addProviderLoginRoutes(api: Api, services: ProviderLoginServices): void {
  const { providers, passwordResets, signUpOpen } = services;
  addEndpoint(api, OPTIONS, (c) =>
    c.json({
      providers: providers.all.map(({ id, name }) => ({ id, name })),
      sign_up: signUpOpen,
      password_reset: passwordResets.isPossible,
    } satisfies rest.LoginOptions),
  );
  addEndpoint(api, BEGIN, async (c, { params, query }) => {
    c.get('assertNotForeign')();
    const returnTo = query.return_to ?? ACCOUNT_PATH;
    const url = await startProviderLogin(c, services, params.provider, { returnTo });
    return c.redirect(url.href, 303);
  });
  addEndpoint(api, START, async (c, { params, body }) => {
    c.get('assertNotForeign')();
    const { invitation, return_to: returnTo = ACCOUNT_PATH } = body;
    const intent = { invitation, returnTo };
    const { href: url } = await startProviderLogin(c, services, params.provider, intent);
    return c.json({ url } satisfies rest.ProviderUrl);
  });
  addEndpoint(api, CALLBACK, async (c, { params }) => {
    c.header('Cache-Control', 'no-store');
    try {
      return c.redirect(await finishProviderLogin(c, services, params.provider), 303);
    } catch (reason) {
      if (wantsPage(c)) return failurePage(c, reason);
      throw reason;
    }
  });
  addIdentityRoutes(api, services);
}

function addIdentityRoutes(api: Api, services: ProviderLoginServices): void {
  const { identities } = services;
  addEndpoint(api, LIST, async (c) => {
    return c.json((await identities.list(c.get('principal'))).map(presentIdentity));
  });
  addEndpoint(api, LINK, async (c, { body }) => {
    const { sessionId } = requireUser(c.get('principal'));
    const intent = { sessionId, returnTo: body.return_to ?? ACCOUNT_PATH };
    const { href: url } = await startProviderLogin(c, services, body.provider, intent);
    return c.json({ url } satisfies rest.ProviderUrl);
  });
  addEndpoint(api, UNLINK, async (c, { params }) => {
    await identities.unlink(c.get('principal'), params.id);
    return c.body(null, 204);
  });
}

function presentIdentity({
  id,
  provider,
  label,
  created_at,
  last_used_at,
}: Identity): rest.Identity {
  return {
    id,
    provider,
    label,
    created_at: created_at.toISOString(),
    last_used: last_used_at.toISOString(),
  };
}
