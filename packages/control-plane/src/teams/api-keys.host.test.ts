import { once } from 'node:events';
import { MEMBER_PERMISSIONS, PERMISSION_NAMES, rest } from '@torpor/protocol';
import { Fleet, type Harness, startHarness, until } from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { WebSocket } from 'ws';

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness();
});
afterAll(() => harness[Symbol.asyncDispose]());

async function createKey(body: object, as?: string): Promise<Response> {
  const headers = as === undefined ? {} : { 'x-api-key': as };
  return harness.request('/v1/api-keys', {
    method: 'POST',
    body: JSON.stringify(body),
    headers: { 'content-type': 'application/json', ...headers },
  });
}

async function newKey(body: object): Promise<rest.CreatedApiKey> {
  const response = await createKey(body);
  expect(response.status).toBe(201);
  return rest.createdApiKeySchema.parse(await response.json());
}

function withKey(key: string, path: string, init: RequestInit = {}): Promise<Response> {
  return harness.request(path, { ...init, headers: { 'x-api-key': key } });
}

async function errorOf(response: Response) {
  return rest.errorBodySchema.parse(await response.json()).error;
}

describe('a new key', () => {
  test('does what every member may do, and no more', async () => {
    const { key, scopes, key_prefix, ...created } = await newKey({ name: 'ci' });
    expect(scopes).toEqual(MEMBER_PERMISSIONS);
    expect(key.startsWith(key_prefix)).toBe(true);
    expect(created).toMatchObject({ name: 'ci', created_by: expect.stringMatching(/^key/) });
    expect((await withKey(key, '/v1/sandboxes')).status).toBe(200);
    expect((await withKey(key.replace('tpr_', 'e2b_'), '/v1/sandboxes')).status).toBe(200);
    for (const path of ['/v1/api-keys', '/v1/audit-logs', '/v1/builds?verify=true']) {
      expect((await withKey(key, path)).status, path).toBe(403);
    }
  });

  test('does only what its scopes say, also over WebSockets', async () => {
    const { key } = await newKey({ name: 'reader', scopes: ['sandboxes.read'] });
    const sandbox = await harness.create();
    expect((await withKey(key, `/v1/sandboxes/${sandbox.id}`)).status).toBe(200);
    const destroyed = await withKey(key, `/v1/sandboxes/${sandbox.id}`, { method: 'DELETE' });
    expect(destroyed.status).toBe(403);
    expect(await errorOf(destroyed)).toMatchObject({
      code: 'forbidden',
      message: expect.stringContaining('sandboxes.write'),
      remedy: expect.any(String),
    });
    expect((await harness.get(sandbox.id)).status).toBe('running');

    const url = `${harness.controlPlane.url.replace('http', 'ws')}/v1/sandboxes/${sandbox.id}/pty`;
    const byHeader = new WebSocket(url, { headers: { 'x-api-key': key } });
    const [, response] = await once(byHeader, 'unexpected-response');
    expect(response.statusCode).toBe(403);
    byHeader.on('error', () => undefined).terminate();
    const byFrame = new WebSocket(url);
    await once(byFrame, 'open');
    byFrame.send(JSON.stringify({ type: 'auth', token: key }));
    const [frame] = await once(byFrame, 'message');
    expect(JSON.parse(String(frame))).toMatchObject({ type: 'error', code: 'forbidden' });
  });

  test('may have every scope of its creator', async () => {
    const { key } = await newKey({ name: 'all', scopes: PERMISSION_NAMES });
    for (const path of [
      '/v1/api-keys',
      '/v1/audit-logs',
      '/v1/builds?verify=true',
      '/v1/snapshots',
    ]) {
      expect((await withKey(key, path)).status, path).toBe(200);
    }
  });

  test('has no scope that its creator does not have', async () => {
    const { key } = await newKey({ name: 'keys', scopes: ['keys.write'] });
    for (const scopes of [['platform'], ['keys.write', 'audit.read'], undefined]) {
      const refused = await createKey({ name: 'more', scopes }, key);
      expect(refused.status).toBe(403);
    }
    expect((await createKey({ name: 'same', scopes: ['keys.write'] }, key)).status).toBe(201);
  });

  test('is refused from its expiry on', async () => {
    const expiresAt = new Date(Date.now() + 1_500);
    const { key } = await newKey({ name: 'short', expires_at: expiresAt.toISOString() });
    expect((await withKey(key, '/v1/sandboxes')).status).toBe(200);
    await until(() => Date.now() > expiresAt.getTime());
    const refused = await withKey(key, '/v1/sandboxes');
    expect(refused.status).toBe(401);
    expect((await errorOf(refused)).message).toContain(expiresAt.toISOString());
  });
});

test('a key that is made with one that expires does not outlive it', async () => {
  const expiry = new Date(Date.now() + 3_600_000);
  const { key } = await newKey({
    name: 'temporary',
    scopes: ['keys.write', 'sandboxes.read'],
    expires_at: expiry.toISOString(),
  });
  const make = (body: object) =>
    fetch(`${harness.controlPlane.url}/v1/api-keys`, {
      method: 'POST',
      headers: { 'x-api-key': key },
      body: JSON.stringify({ name: 'child', scopes: ['sandboxes.read'], ...body }),
    });
  expect(await (await make({})).json()).toMatchObject({ expires_at: expiry.toISOString() });
  const later = new Date(expiry.getTime() + 1);
  const refused = await make({ expires_at: later.toISOString() });
  expect(await errorOf(refused)).toMatchObject({ code: 'forbidden' });
  const earlier = new Date(expiry.getTime() - 1_000).toISOString();
  expect(await (await make({ expires_at: earlier })).json()).toMatchObject({ expires_at: earlier });
});

test.each([
  [{}, 'name'],
  [{ name: '' }, 'name'],
  [{ name: 'a\nb' }, 'name'],
  [{ name: 'x'.repeat(65) }, 'name'],
  [{ name: 'a', scopes: [] }, 'scopes'],
  [{ name: 'a', scopes: ['everything'] }, 'scopes'],
  [{ name: 'a', expires_at: 'tomorrow' }, 'expires_at'],
  [{ name: 'a', expires_at: '2020-01-01T00:00:00Z' }, '2020'],
  [{ name: 'a', more: 1 }, 'more'],
])('%j is not a request for a key', async (body, where) => {
  const refused = await createKey(body);
  expect(refused.status).toBe(400);
  const { code, message } = await errorOf(refused);
  expect(code).toBe('invalid_request');
  expect(message).toContain(where);
});

test('the local key gets the permissions that are new', async () => {
  await using fleet = await Fleet.open();
  const { controlPlane } = await fleet.join();
  await fleet.database.query(`update api_keys set scopes = '{sandboxes.read}'`);
  await controlPlane.close();
  await fleet.join();
  const { rows } = await fleet.database.query('select name, scopes from api_keys');
  expect(rows).toEqual([{ name: 'local', scopes: PERMISSION_NAMES }]);
});

test('a revoked key is refused at once, and once', async () => {
  const { id, key } = await newKey({ name: 'gone' });
  expect((await withKey(key, '/v1/sandboxes')).status).toBe(200);
  const revoked = await harness.request(`/v1/api-keys/${id}`, { method: 'DELETE' });
  expect(revoked.status).toBe(204);
  expect((await withKey(key, '/v1/sandboxes')).status).toBe(401);
  const again = await harness.request(`/v1/api-keys/${id}`, { method: 'DELETE' });
  expect(again.status).toBe(404);
});

test('the list has every key of the team with its last use, and never a key or its hash', async () => {
  const { key, ...created } = await newKey({ name: 'listed' });
  await withKey(key, '/v1/sandboxes');
  const text = await (await harness.request('/v1/api-keys')).text();
  expect(text).not.toContain(key);
  const listed = rest.apiKeyListSchema.parse(JSON.parse(text));
  expect(listed.map(({ name }) => name)).toContain('local');
  expect(listed.find(({ id }) => id === created.id)).toEqual({
    ...created,
    last_used: expect.any(String),
  });
  expect(harness.log()).not.toContain(key);
});

test('what is done with keys is in the audit log, under the name of who did it', async () => {
  const { id, key } = await newKey({
    name: 'audited',
    scopes: ['sandboxes.write', 'sandboxes.read'],
  });
  const created = await withKey(key, '/v1/sandboxes', { method: 'POST' });
  const sandbox = rest.sandboxSchema.parse(await created.json());
  await harness.request(`/v1/api-keys/${id}`, { method: 'DELETE' });
  const entries = async (query: string) => {
    const page = await harness.request(`/v1/audit-logs?${query}`);
    return rest.auditPageSchema.parse(await page.json()).items;
  };
  await until(async () => (await entries(`resource_id=${id}`)).length === 2);
  expect(await entries(`resource_id=${id}`)).toMatchObject([
    { action: 'revoke', resource_type: 'api_key', actor_name: 'local', status: 'success' },
    { action: 'create', metadata: { name: 'audited', scopes: 'sandboxes.write sandboxes.read' } },
  ]);
  expect(await entries(`resource_id=${sandbox.id}`)).toMatchObject([
    { action: 'create', actor_type: 'api_key', actor_id: id, actor_name: 'audited' },
  ]);
});
