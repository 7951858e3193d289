import { rest } from '@torpor/protocol';
import { z } from 'zod';
import type { ApiKey } from '../../auth/api-keys.ts';
import type { IdempotencyKeys } from '../../idempotency/keys.ts';
import type { ApiKeyService } from '../../teams/api-keys.ts';
import { addCreateEndpoint } from '../create-endpoint.ts';
import { type Api, addEndpoint, defineEndpoint } from '../endpoint.ts';
import { cursorsOf, readPage } from './page-token.ts';

const TAG = 'API keys';
const POSITIONS = cursorsOf('api-keys', 'apiKey');

const CREATE = defineEndpoint({
  method: 'post',
  path: '/v1/api-keys',
  operationId: 'createApiKey',
  access: 'keys.write',
  summary: 'Create an API key of the team',
  description: 'The response is the only one that has the key itself.',
  tag: TAG,
  body: rest.createApiKeySchema,
  responses: {
    201: {
      description: 'The key is valid.',
      content: { 'application/json': rest.createdApiKeySchema },
    },
  },
});

const LIST = defineEndpoint({
  method: 'get',
  path: '/v1/api-keys',
  operationId: 'listApiKeys',
  access: 'keys.read',
  summary: 'List the API keys of the team, newest first',
  tag: TAG,
  query: rest.pageQuerySchema,
  responses: {
    200: { description: 'The keys.', content: { 'application/json': rest.apiKeyListSchema } },
  },
});

const REVOKE = defineEndpoint({
  method: 'delete',
  path: '/v1/api-keys/{id}',
  operationId: 'revokeApiKey',
  access: 'keys.write',
  summary: 'Revoke an API key: it is refused from the next request on',
  tag: TAG,
  params: z.object({ id: z.string() }),
  responses: { 204: { description: 'The key is revoked.' } },
});

export function addApiKeyRoutes(api: Api, apiKeys: ApiKeyService, keys: IdempotencyKeys): void {
  addCreateEndpoint(api, keys, CREATE, {
    isPrivate: true,
    create: async (c, { body }, record) => {
      const { name, scopes, expires_at: expiry } = body;
      const expiresAt = expiry === undefined ? undefined : new Date(expiry);
      const request = { name, scopes, expiresAt };
      const { row, key } = await apiKeys.create(c.get('principal'), request, record);
      return c.json({ ...presentApiKey(row), key } satisfies rest.CreatedApiKey, 201);
    },
    outcome: async (c, _, { ids: [id = ''], secret: key = '' }) => {
      const row = await apiKeys.get(c.get('principal'), id);
      return c.json({ ...presentApiKey(row), key } satisfies rest.CreatedApiKey, 201);
    },
  });
  addEndpoint(api, LIST, async (c, { query }) => {
    const { entries } = await readPage(
      c,
      POSITIONS,
      query,
      (page) => apiKeys.list(c.get('principal'), page),
      ({ created_at: createdAt, id }) => ({ createdAt, id }),
    );
    return c.json(entries.map(presentApiKey));
  });
  addEndpoint(api, REVOKE, async (c, { params }) => {
    await apiKeys.revoke(c.get('principal'), params.id);
    return c.body(null, 204);
  });
}

function presentApiKey(row: ApiKey): rest.ApiKey {
  const { id, team_id, name, key_prefix, scopes, created_by, last_used_at, expires_at } = row;
  return {
    id,
    team_id,
    name,
    key_prefix,
    scopes,
    ...(created_by === null ? {} : { created_by }),
    created_at: row.created_at.toISOString(),
    ...(last_used_at === null ? {} : { last_used: last_used_at.toISOString() }),
    ...(expires_at === null ? {} : { expires_at: expires_at.toISOString() }),
  };
}
