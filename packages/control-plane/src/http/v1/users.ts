import { rest } from '@torpor/protocol';
import { z } from 'zod';
import type { UserDirectory } from '../../users/directory.ts';
import type { WebSettings } from '../credentials.ts';
import { type Api, addEndpoint, defineEndpoint, jsonResponse } from '../endpoint.ts';
import { linkTo, presentUser } from './present-accounts.ts';

const TAG = 'Accounts';
const params = z.object({ id: z.string() });

const LIST = defineEndpoint({
  method: 'get',
  path: '/v1/users',
  operationId: 'listUsers',
  access: 'platform',
  summary: 'List all users, by email address',
  tag: TAG,
  responses: { 200: jsonResponse('The users.', rest.userListSchema) },
});

const CREATE = defineEndpoint({
  method: 'post',
  path: '/v1/users',
  operationId: 'createUser',
  access: 'platform',
  summary: 'Make an account, and a link with which its user sets a password',
  description:
    'The user becomes the owner of the team of the request if that has none; else it gets a team of its own.',
  tag: TAG,
  body: rest.createUserSchema,
  responses: { 201: jsonResponse('The user, with the link.', rest.createdUserSchema) },
});

const UPDATE = defineEndpoint({
  method: 'patch',
  path: '/v1/users/{id}',
  operationId: 'updateUser',
  access: 'platform',
  summary: 'Disable or enable a user, or make one an operator of the platform',
  description: 'A user who is disabled loses all sessions, links and API keys at once.',
  tag: TAG,
  params,
  body: rest.updateUserSchema,
  responses: { 200: jsonResponse('The user.', rest.userSchema) },
});

const CREATE_LINK = defineEndpoint({
  method: 'post',
  path: '/v1/users/{id}/password-link',
  operationId: 'createPasswordLink',
  access: 'platform',
  summary: 'Make a link with which a user sets a new password, once',
  tag: TAG,
  params,
  responses: { 201: jsonResponse('The link.', rest.oneTimeLinkSchema) },
});

export interface UserServices {
  readonly web: WebSettings;
  readonly directory: UserDirectory;
}

export function addUserRoutes(api: Api, { web, directory }: UserServices): void {
  addEndpoint(api, LIST, async (c) => c.json((await directory.list()).map(presentUser)));
  addEndpoint(api, CREATE, async (c, { body }) => {
    const { email, is_admin: isAdmin } = body;
    const name = body.name ?? email.slice(0, email.indexOf('@'));
    const { user, link } = await directory.create(c.get('principal'), { email, name, isAdmin });
    c.header('Cache-Control', 'no-store');
    return c.json(
      {
        ...presentUser(user),
        link: linkTo(c, web, 'password', link.token),
        expires_at: link.expiresAt.toISOString(),
      } satisfies rest.CreatedUser,
      201,
    );
  });
  addEndpoint(api, UPDATE, async (c, { params: { id }, body }) => {
    const changes = { status: body.status, isAdmin: body.is_admin };
    return c.json(presentUser(await directory.update(c.get('principal'), id, changes)));
  });
  addEndpoint(api, CREATE_LINK, async (c, { params: { id } }) => {
    const link = await directory.createLink(c.get('principal'), id);
    c.header('Cache-Control', 'no-store');
    return c.json(
      {
        link: linkTo(c, web, 'password', link.token),
        expires_at: link.expiresAt.toISOString(),
      } satisfies rest.OneTimeLink,
      201,
    );
  });
}
