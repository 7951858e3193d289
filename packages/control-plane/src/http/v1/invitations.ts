import { rest } from '@torpor/protocol';
import { z } from 'zod';
import type { AttemptLimiter } from '../../auth/attempts.ts';
import type { Invitation, InvitationService } from '../../teams/invitations.ts';
import { clientAttempt } from '../../users/accounts.ts';
import type { WebSettings } from '../credentials.ts';
import { type Api, addEndpoint, defineEndpoint, jsonResponse } from '../endpoint.ts';
import { linkTo } from './present-accounts.ts';
import { teamParams } from './teams.ts';

const TAG = 'Teams';

const CREATE = defineEndpoint({
  method: 'post',
  path: '/v1/teams/{team_id}/invitations',
  operationId: 'createInvitation',
  access: 'team.write',
  summary: 'Make a link with which somebody joins the team, once',
  tag: TAG,
  params: teamParams,
  body: rest.createInvitationSchema,
  responses: {
    201: jsonResponse('The invitation, with its link.', rest.createdInvitationSchema),
  },
});

const LIST = defineEndpoint({
  method: 'get',
  path: '/v1/teams/{team_id}/invitations',
  operationId: 'listInvitations',
  access: 'team.read',
  summary: 'List the invitations that can still be accepted, newest first',
  tag: TAG,
  params: teamParams,
  responses: { 200: jsonResponse('The invitations.', rest.invitationListSchema) },
});

const REVOKE = defineEndpoint({
  method: 'delete',
  path: '/v1/teams/{team_id}/invitations/{id}',
  operationId: 'revokeInvitation',
  access: 'team.write',
  summary: 'Revoke an invitation',
  tag: TAG,
  params: teamParams.extend({ id: z.string() }),
  responses: { 204: { description: 'It cannot be accepted any more.' } },
});

const PREVIEW = defineEndpoint({
  method: 'post',
  path: '/v1/invitations/preview',
  operationId: 'previewInvitation',
  access: 'public',
  summary: 'Say to which team an invitation is',
  tag: TAG,
  body: rest.invitationTokenSchema,
  responses: { 200: jsonResponse('What it is for.', rest.invitationPreviewSchema) },
});

const ACCEPT = defineEndpoint({
  method: 'post',
  path: '/v1/invitations/accept',
  operationId: 'acceptInvitation',
  access: 'user',
  summary: 'Join the team of an invitation',
  description: 'Without an account, pass the invitation to `POST /v1/auth/signup`.',
  tag: TAG,
  body: rest.invitationTokenSchema,
  responses: { 200: jsonResponse('The team.', rest.switchTeamSchema) },
});

export interface InvitationServices {
  readonly web: WebSettings;
  readonly limiter: AttemptLimiter;
  readonly invitations: InvitationService;
}

export function addInvitationRoutes(api: Api, services: InvitationServices): void {
  const { web, limiter, invitations } = services;
  addEndpoint(api, CREATE, async (c, { body }) => {
    const { invitation, token, isMailed } = await invitations.create(c.get('principal'), body);
    c.header('Cache-Control', 'no-store');
    return c.json(
      {
        ...presentInvitation(invitation),
        link: linkTo(c, web, 'join', token),
        mailed: isMailed,
      } satisfies rest.CreatedInvitation,
      201,
    );
  });
  addEndpoint(api, LIST, async (c) => {
    return c.json((await invitations.list(c.get('principal'))).map(presentInvitation));
  });
  addEndpoint(api, REVOKE, async (c, { params }) => {
    await invitations.revoke(c.get('principal'), params.id);
    return c.body(null, 204);
  });
  addEndpoint(api, PREVIEW, async (c, { body }) => {
    await limiter.take([clientAttempt(c.get('client'))]);
    const { team_name, role, email, expires_at } = await invitations.preview(body.token);
    return c.json({
      team_name,
      role,
      ...(email === null ? {} : { email }),
      expires_at: expires_at.toISOString(),
    } satisfies rest.InvitationPreview);
  });
  addEndpoint(api, ACCEPT, async (c, { body }) => {
    await limiter.take([clientAttempt(c.get('client'))]);
    return c.json({ team_id: await invitations.accept(c.get('principal'), body.token) });
  });
}

function presentInvitation(invitation: Invitation): rest.Invitation {
  const { id, team_id, role, email, created_by } = invitation;
  return {
    id,
    team_id,
    role,
    ...(email === null ? {} : { email }),
    ...(created_by === null ? {} : { created_by }),
    created_at: invitation.created_at.toISOString(),
    expires_at: invitation.expires_at.toISOString(),
  };
}
