import { OpenAPIHono } from '@hono/zod-openapi';
import { type Permission, rest } from '@torpor/protocol';
import { expect, test, vi } from 'vitest';
import { z } from 'zod';
import { type Api, addEndpoint, defineEndpoint } from './endpoint.ts';
import type { AppEnvironment } from './environment.ts';
import { errorResponse } from './error-response.ts';

const ENDPOINT = defineEndpoint({
  method: 'post',
  path: '/things/{size}/parts/{name}',
  operationId: 'thing',
  summary: 'A thing',
  access: 'sandboxes.write',
  tag: 'Things',
  params: z.object({ size: z.coerce.number().int().min(1), name: z.string() }),
  query: z.strictObject({ all: z.enum(['true', 'false']).default('false') }),
  body: z.strictObject({ colour: z.string().default('red') }),
  responses: { 200: { description: 'It.' } },
});

function application(permissions: readonly Permission[] = ['sandboxes.write']) {
  const api: Api = new OpenAPIHono<AppEnvironment>();
  api.use(async (c, next) => {
    const actor = { type: 'system', id: null, name: null } as const;
    c.set('authenticate', async (teamId = 'tm1') => ({
      teamId,
      actor,
      permissions: new Set(permissions),
    }));
    await next();
  });
  api.onError((error, c) => errorResponse(c, error));
  const handled = vi.fn();
  addEndpoint(api, ENDPOINT, (c, input) => {
    handled(input);
    return c.body(null, 204);
  });
  return { api, handled };
}

test('a handler gets path, query and body as parsed by their schemas', async () => {
  const { api, handled } = application();
  const response = await api.request('/things/12/parts/a%2Fb?all=true', { method: 'POST' });
  expect(response.status).toBe(204);
  expect(handled.mock.calls).toEqual([
    [{ params: { size: 12, name: 'a/b' }, query: { all: 'true' }, body: { colour: 'red' } }],
  ]);
});

test.each([
  ['/things/none/parts/a', undefined, 'path', 'size'],
  ['/things/0/parts/a', undefined, 'path', 'size'],
  ['/things/1/parts/a?all=some', undefined, 'query', 'all'],
  ['/things/1/parts/a', '{"colour":1}', 'request body', 'colour'],
])('%s with the body %s does not reach it', async (path, body, where, field) => {
  const { api, handled } = application();
  const response = await api.request(path, { method: 'POST', ...(body ? { body } : {}) });
  expect(response.status).toBe(400);
  const { error } = rest.errorBodySchema.parse(await response.json());
  expect(error).toMatchObject({ code: 'invalid_request', issues: [{ field }] });
  expect(error.message).toContain(`Invalid ${where}: ${field}`);
  expect(handled).not.toHaveBeenCalled();
});

test('a caller without the permission does not reach it, whatever the request', async () => {
  const { api, handled } = application(['sandboxes.read', 'platform']);
  for (const path of ['/things/12/parts/a', '/things/none/parts/a']) {
    const response = await api.request(path, { method: 'POST' });
    expect(response.status).toBe(403);
    const { error } = rest.errorBodySchema.parse(await response.json());
    expect(error).toMatchObject({ code: 'forbidden' });
    expect(error.message).toContain('sandboxes.write');
  }
  expect(handled).not.toHaveBeenCalled();
});

test.each([
  ['public', 204, undefined],
  ['authenticated', 204, 'tm2'],
  // Not a session.
  ['user', 403, undefined],
  ['platform', 403, undefined],
] as const)(
  'with the access %s a key gets %i, in the team of the path',
  async (access, status, team) => {
    const { api } = application();
    const teams: (string | undefined)[] = [];
    const { params: _, body: __, query: ___, ...endpoint } = ENDPOINT;
    const params = z.object({ team_id: z.string() });
    addEndpoint(api, { ...endpoint, path: '/teams/{team_id}', params, access }, (c) => {
      teams.push(c.get('principal')?.teamId);
      return c.body(null, 204);
    });
    const response = await api.request('/teams/tm2', { method: 'POST' });
    expect(response.status).toBe(status);
    expect(teams).toEqual(status === 204 ? [team] : []);
  },
);

test('the description names the permission, and none for what is public', () => {
  const { api } = application();
  addEndpoint(api, { ...ENDPOINT, path: '/open/{size}/{name}', access: 'public' }, (c) =>
    c.body(null),
  );
  const { paths } = api.getOpenAPIDocument({ openapi: '3.1.0', info: { title: '', version: '' } });
  expect(paths['/things/{size}/parts/{name}']?.post).toMatchObject({
    security: [{ apiKey: [] }, { session: [] }, { sessionCookie: [] }],
    'x-permission': 'sandboxes.write',
  });
  const open = paths['/open/{size}/{name}']?.post;
  expect(open?.security).toEqual([]);
  expect(open).not.toHaveProperty('x-permission');
});

test('a path whose parameters are not those of its schema fails when the application is built', () => {
  const { api } = application();
  const wrong = defineEndpoint({ ...ENDPOINT, path: '/things/{id}' });
  expect(() => addEndpoint(api, wrong, (c) => c.body(null))).toThrow(/\[id\].*\[name,size\]/);
});
