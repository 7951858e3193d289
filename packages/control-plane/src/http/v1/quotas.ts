import { rest } from '@torpor/protocol';
import { z } from 'zod';
import type { Quota, Quotas } from '../../teams/quotas.ts';
import { type Api, addEndpoint, defineEndpoint, jsonResponse } from '../endpoint.ts';

const TAG = 'Quotas';
const params = z.object({ id: z.string() });

const GET_OWN = defineEndpoint({
  method: 'get',
  path: '/v1/quotas',
  operationId: 'getQuotas',
  access: 'usage.read',
  summary: 'Show what the team has and may have',
  tag: TAG,
  responses: { 200: jsonResponse('The quotas of the team.', rest.quotaListSchema) },
});

const GET = defineEndpoint({
  method: 'get',
  path: '/v1/teams/{id}/quotas',
  operationId: 'getTeamQuotas',
  access: 'platform',
  summary: 'Show what a team has and may have',
  tag: TAG,
  params,
  responses: { 200: jsonResponse('The quotas of the team.', rest.quotaListSchema) },
});

const SET = defineEndpoint({
  method: 'patch',
  path: '/v1/teams/{id}/quotas',
  operationId: 'setTeamQuotas',
  access: 'platform',
  summary: 'Change what a team may have',
  description: 'What it has already stays, even if it is more.',
  tag: TAG,
  params,
  body: rest.setQuotasSchema,
  responses: { 200: jsonResponse('The quotas as they are now.', rest.quotaListSchema) },
});

export function addQuotaRoutes(api: Api, quotas: Quotas): void {
  const present = async (teamId: string): Promise<rest.QuotaList> => ({
    team_id: teamId,
    items: (await quotas.read(teamId)).map(presentQuota),
  });
  addEndpoint(api, GET_OWN, async (c) => c.json(await present(c.get('principal').teamId)));
  addEndpoint(api, GET, async (c, { params: { id } }) => c.json(await present(id)));
  addEndpoint(api, SET, async (c, { params: { id }, body }) => {
    await quotas.set(c.get('principal'), id, body);
    return c.json(await present(id));
  });
}

function presentQuota({ name, used, limit, isDefault }: Quota): rest.Quota {
  return { name, used, limit, is_default: isDefault };
}
