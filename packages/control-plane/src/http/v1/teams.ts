import { rest } from '@torpor/protocol';
import { z } from 'zod';
import type { Member, MemberService } from '../../teams/members.ts';
import type { TeamService } from '../../teams/teams.ts';
import { type Api, addEndpoint, defineEndpoint, jsonResponse } from '../endpoint.ts';
import { presentTeam } from './present-accounts.ts';

const TAG = 'Teams';

/** A request about a team acts in it, whatever the team of the session is. */
export const teamParams = z.object({ team_id: z.string() });
const memberParams = teamParams.extend({ user_id: z.string() });

const LIST = defineEndpoint({
  method: 'get',
  path: '/v1/teams',
  operationId: 'listTeams',
  access: 'authenticated',
  summary: 'List the teams that you are in, by name',
  tag: TAG,
  responses: { 200: jsonResponse('The teams.', rest.teamListSchema) },
});

const CREATE = defineEndpoint({
  method: 'post',
  path: '/v1/teams',
  operationId: 'createTeam',
  access: 'user',
  summary: 'Make a team, and own it',
  tag: TAG,
  body: rest.createTeamSchema,
  responses: { 201: jsonResponse('The team.', rest.teamSchema) },
});

const GET = defineEndpoint({
  method: 'get',
  path: '/v1/teams/{team_id}',
  operationId: 'getTeam',
  access: 'team.read',
  summary: 'Look at a team',
  tag: TAG,
  params: teamParams,
  responses: { 200: jsonResponse('The team.', rest.teamSchema) },
});

const UPDATE = defineEndpoint({
  method: 'patch',
  path: '/v1/teams/{team_id}',
  operationId: 'updateTeam',
  access: 'team.write',
  summary: 'Rename a team',
  tag: TAG,
  params: teamParams,
  body: rest.updateTeamSchema,
  responses: { 200: jsonResponse('The team.', rest.teamSchema) },
});

const DELETE = defineEndpoint({
  method: 'delete',
  path: '/v1/teams/{team_id}',
  operationId: 'deleteTeam',
  access: 'team.delete',
  summary: 'Delete a team, with its keys, webhooks, members and invitations',
  description: 'Refused with `conflict` while it has sandboxes, snapshots or hosts.',
  tag: TAG,
  params: teamParams,
  responses: { 204: { description: 'The team is deleted.' } },
});

const LIST_MEMBERS = defineEndpoint({
  method: 'get',
  path: '/v1/teams/{team_id}/members',
  operationId: 'listMembers',
  access: 'team.read',
  summary: 'List the members of a team, in the order in which they joined',
  tag: TAG,
  params: teamParams,
  responses: { 200: jsonResponse('The members.', rest.memberListSchema) },
});

const UPDATE_MEMBER = defineEndpoint({
  method: 'patch',
  path: '/v1/teams/{team_id}/members/{user_id}',
  operationId: 'updateMember',
  access: 'team.write',
  summary: 'Give a member another role',
  description: 'Only the owner can make another member the owner, and becomes an admin.',
  tag: TAG,
  params: memberParams,
  body: rest.updateMemberSchema,
  responses: { 204: { description: 'The member has the role.' } },
});

const REMOVE_MEMBER = defineEndpoint({
  method: 'delete',
  path: '/v1/teams/{team_id}/members/{user_id}',
  operationId: 'removeMember',
  access: 'team.write',
  summary: 'Remove a member, with what the member made',
  description:
    'API keys, invitations and tokens of hosts are revoked; webhooks are disabled until another admin enables them.',
  tag: TAG,
  params: memberParams,
  responses: { 204: { description: 'The member has lost access.' } },
});

const LEAVE = defineEndpoint({
  method: 'post',
  path: '/v1/teams/{team_id}/leave',
  operationId: 'leaveTeam',
  access: 'user',
  summary: 'Leave a team',
  tag: TAG,
  params: teamParams,
  responses: { 204: { description: 'You are not in the team any more.' } },
});

export function addTeamRoutes(api: Api, teams: TeamService): void {
  addEndpoint(api, LIST, async (c) => {
    return c.json((await teams.list(c.get('principal'))).map(presentTeam));
  });
  addEndpoint(api, CREATE, async (c, { body }) => {
    return c.json(presentTeam(await teams.create(c.get('principal'), body.name)), 201);
  });
  addEndpoint(api, GET, async (c) => c.json(presentTeam(await teams.get(c.get('principal')))));
  addEndpoint(api, UPDATE, async (c, { body }) => {
    return c.json(presentTeam(await teams.rename(c.get('principal'), body.name)));
  });
  addEndpoint(api, DELETE, async (c) => {
    await teams.delete(c.get('principal'));
    return c.body(null, 204);
  });
}

export function addMemberRoutes(api: Api, members: MemberService): void {
  addEndpoint(api, LIST_MEMBERS, async (c) => {
    return c.json((await members.list(c.get('principal'))).map(presentMember));
  });
  addEndpoint(api, UPDATE_MEMBER, async (c, { params, body }) => {
    await members.changeRole(c.get('principal'), params.user_id, body.role);
    return c.body(null, 204);
  });
  addEndpoint(api, REMOVE_MEMBER, async (c, { params }) => {
    await members.remove(c.get('principal'), params.user_id);
    return c.body(null, 204);
  });
  addEndpoint(api, LEAVE, async (c) => {
    await members.leave(c.get('principal'));
    return c.body(null, 204);
  });
}

function presentMember({ user_id, name, email, role, created_at }: Member): rest.Member {
  return { user_id, name, email, role, joined_at: created_at.toISOString() };
}
