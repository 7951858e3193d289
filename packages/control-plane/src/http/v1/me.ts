import { rest } from '@torpor/protocol';
import type { Principal } from '../../auth/principal.ts';
import type { TeamService } from '../../teams/teams.ts';
import type { ProfileService } from '../../users/profile.ts';
import { type Api, addEndpoint, defineEndpoint, jsonResponse } from '../endpoint.ts';
import { presentTeam, presentUser } from './present-accounts.ts';

const TAG = 'Accounts';

const GET = defineEndpoint({
  method: 'get',
  path: '/v1/me',
  operationId: 'getCaller',
  access: 'authenticated',
  summary: 'Say who makes the request, in which team, and what it may do',
  tag: TAG,
  responses: { 200: jsonResponse('The caller.', rest.callerSchema) },
});

const UPDATE = defineEndpoint({
  method: 'patch',
  path: '/v1/me',
  operationId: 'updateAccount',
  access: 'user',
  summary: 'Change your name',
  tag: TAG,
  body: rest.updateMeSchema,
  responses: { 200: jsonResponse('The user.', rest.userSchema) },
});

const CHANGE_PASSWORD = defineEndpoint({
  method: 'post',
  path: '/v1/me/password',
  operationId: 'changePassword',
  access: 'user',
  summary: 'Change your password, and end your other sessions',
  tag: TAG,
  body: rest.changePasswordSchema,
  responses: { 204: { description: 'The password is changed.' } },
});

const DELETE = defineEndpoint({
  method: 'delete',
  path: '/v1/me',
  operationId: 'deleteAccount',
  access: 'user',
  summary: 'Delete your account, with its sessions and API keys',
  description: 'Refused with `conflict` while you own a team.',
  tag: TAG,
  body: rest.deleteMeSchema,
  responses: { 204: { description: 'The account is deleted.' } },
});

export interface MeServices {
  readonly profiles: ProfileService;
  readonly teams: TeamService;
}

export function addMeRoutes(api: Api, { profiles, teams }: MeServices): void {
  addEndpoint(api, GET, async (c) => {
    const principal = c.get('principal');
    const user = await profiles.find(principal);
    const team = await teams.find(principal);
    return c.json({
      type: principal.actor.type,
      ...(user === undefined ? { api_key: presentKey(principal) } : { user: presentUser(user) }),
      ...(team === undefined ? {} : { team: presentTeam(team) }),
      permissions: [...principal.permissions],
    } satisfies rest.Caller);
  });
  addEndpoint(api, UPDATE, async (c, { body }) => {
    return c.json(presentUser(await profiles.rename(c.get('principal'), body.name)));
  });
  addEndpoint(api, CHANGE_PASSWORD, async (c, { body }) => {
    const change = { current: body.current_password, next: body.new_password };
    await profiles.changePassword(c.get('principal'), change, c.get('client'));
    return c.body(null, 204);
  });
  addEndpoint(api, DELETE, async (c, { body }) => {
    await profiles.delete(c.get('principal'), body.confirmation);
    return c.body(null, 204);
  });
}

function presentKey({ actor }: Principal): NonNullable<rest.Caller['api_key']> {
  return { id: actor.id ?? '', name: actor.name ?? '' };
}
