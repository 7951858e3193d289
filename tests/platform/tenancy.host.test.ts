/** Who may call which endpoint: every one of the OpenAPI description, with every kind of key. */
import { createHash } from 'node:crypto';
import { renderOpenApi } from '@torpor/control-plane/testing';
import { newApiKey, newId, PERMISSION_NAMES, type Permission, rest } from '@torpor/protocol';
import { Fleet, type Member } from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

type Access = Permission | 'authenticated' | 'user';

interface Operation {
  readonly method: string;
  readonly path: string;
  /** Undefined for what is public. `user`: a session; `authenticated`: any credentials. */
  readonly permission: Access | undefined;
}

interface OpenApi {
  readonly paths: Record<string, Record<string, { readonly 'x-permission'?: Access }>>;
}

const document = JSON.parse(await renderOpenApi()) as OpenApi;
const operations: Operation[] = Object.entries(document.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, { 'x-permission': permission }]) => ({
    method: method.toUpperCase(),
    path,
    permission,
  })),
);
const guarded = operations.filter(({ permission }) => permission !== undefined);
/** WebSockets, which refuse a plain request. */
const UPGRADED = /\/(?:stream|pty)$/;
const PUBLIC = [
  '/health',
  '/metrics',
  '/v1/auth/signup',
  '/v1/auth/login',
  '/v1/auth/password',
  '/v1/auth/password-reset',
  '/v1/auth/providers',
  '/v1/auth/oauth/{provider}/start',
  '/v1/auth/oauth/{provider}/start',
  '/v1/auth/oauth/{provider}/callback',
  '/v1/auth/device',
  '/v1/auth/device/token',
  '/v1/invitations/preview',
];

/** Bodies without which a request is refused before anything is looked up. */
const BODIES: Readonly<Record<string, (owned: Owned) => object>> = {
  'POST /v1/snapshots': ({ sandbox }) => ({ sandbox_id: sandbox, name: 'stolen' }),
  'POST /v1/sandboxes/{id}/exec': () => ({ cmd: 'true' }),
  'POST /v1/sandboxes/{id}/files/stream/read': () => ({ path: '/etc/hostname' }),
  'POST /v1/sandboxes/{id}/files/read': () => ({ path: '/etc/hostname' }),
  'POST /v1/sandboxes/{id}/files/list': () => ({ path: '/' }),
  'POST /v1/sandboxes/{id}/files/mkdir': () => ({ path: '/tmp/x' }),
  'POST /v1/sandboxes/{id}/files/remove': () => ({ path: '/tmp/x' }),
  'POST /v1/hosts/{id}/tags': () => ({ tag: 'stolen' }),
};

/** What the first team owns. */
interface Owned {
  readonly sandbox: string;
  readonly snapshot: string;
  readonly apiKey: string;
  readonly webhook: string;
  readonly host: string;
  readonly team: string;
  readonly user: string;
  readonly invitation: string;
}

let fleet: Fleet;
let member: Member;
let owned: Owned;
beforeAll(async () => {
  fleet = await Fleet.open();
  member = await fleet.join({ agents: { host: '127.0.0.1', port: 0 } });
  const { id: source } = await member.create();
  await member.call('POST', '/snapshots', { sandbox_id: source, name: 'warm' });
  const { id: sandbox } = await member.create();
  const webhook = await member.call('POST', '/webhooks', {
    name: 'hook',
    url: 'https://example.com/',
    event_types: ['snapshot.*'],
  });
  const key = await member.call('POST', '/api-keys', { name: 'owned' });
  const host = await member.call('POST', '/hosts', { name: 'owned', type: 'team' });
  const user = await member.call('POST', '/users', { email: 'owner@example.com' });
  const team = await ownTeam();
  const invitation = await member.call('POST', `/teams/${team}/invitations`, {});
  owned = {
    sandbox,
    snapshot: 'warm',
    webhook: rest.createdWebhookSchema.parse(await webhook.json()).id,
    apiKey: rest.createdApiKeySchema.parse(await key.json()).id,
    host: rest.createdHostSchema.parse(await host.json()).host.id,
    team,
    user: rest.createdUserSchema.parse(await user.json()).id,
    invitation: rest.createdInvitationSchema.parse(await invitation.json()).id,
  };
});
afterAll(() => fleet[Symbol.asyncDispose]());

/** A key of a team; `expiresAt` is a time of PostgreSQL. */
async function insertKey(teamId: string, scopes: readonly Permission[], expiresAt?: string) {
  const key = newApiKey();
  await fleet.database.query(
    `insert into api_keys (id, team_id, name, key_hash, key_prefix, scopes, expires_at)
     values ($1, $2, 'test', $3, 'tpr_', $4, $5)`,
    [newId('apiKey'), teamId, createHash('sha256').update(key).digest('hex'), scopes, expiresAt],
  );
  return key;
}

/** A key of a new team, with every permission. */
async function strangersKey(): Promise<string> {
  const teamId = newId('team');
  await fleet.database.query(`insert into teams (id, name) values ($1, 'Strangers')`, [teamId]);
  return insertKey(teamId, PERMISSION_NAMES);
}

async function ownTeam(): Promise<string> {
  const { rows } = await fleet.database.query(`select team_id from api_keys where name = 'local'`);
  return rows[0].team_id;
}

/** Calls an operation on what the first team owns. */
async function call({ method, path }: Operation, key: string | undefined): Promise<Response> {
  const [, , kind = ''] = path.split('/');
  const ids: Record<string, string> = {
    sandboxes: owned.sandbox,
    'api-keys': owned.apiKey,
    webhooks: owned.webhook,
    hosts: owned.host,
    users: owned.user,
    teams: owned.invitation,
  };
  const filled = path
    .replace('{id}', ids[kind] ?? 'none')
    .replace('{team_id}', owned.team)
    .replace('{user_id}', owned.user)
    .replace('{name}', owned.snapshot)
    .replace('{selector}', '1')
    .replace('{tag}', 'stolen');
  const query = path.endsWith('/files') ? '?path=/etc/hostname' : queryOf(path);
  const body = BODIES[`${method} ${path}`]?.(owned);
  return fetch(`${member.controlPlane.url}${filled}${query}`, {
    method,
    headers: {
      ...(key === undefined ? {} : { 'x-api-key': key }),
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
}

function queryOf(path: string): string {
  if (path === '/v1/builds') return '?verify=true';
  return path === '/v1/events' ? '?follow=false' : '';
}

test('only what tells nothing about teams is public', () => {
  const open = operations.filter(({ permission }) => permission === undefined);
  expect(open.map(({ path }) => path)).toEqual(PUBLIC);
  expect(guarded.length).toBeGreaterThan(30);
});

describe.each(
  guarded.map((operation) => [`${operation.method} ${operation.path}`, operation] as const),
)('%s', (_name, operation) => {
  test('needs a key that is valid', async () => {
    expect((await call(operation, undefined)).status).toBe(401);
    expect((await call(operation, newApiKey())).status).toBe(401);
    const expired = await insertKey(await ownTeam(), PERMISSION_NAMES, '2020-01-01');
    expect((await call(operation, expired)).status).toBe(401);
  });

  test('needs its permission, and no other', async () => {
    const { permission = 'platform' } = operation;
    if (permission === 'authenticated') return;
    const others = PERMISSION_NAMES.filter((name) => name !== permission);
    const response = await call(operation, await insertKey(await ownTeam(), others));
    expect(response.status).toBe(403);
    expect(rest.errorBodySchema.parse(await response.json()).error.message).toContain(permission);
  });
});

const onResources = guarded.filter(
  ({ method, path }) =>
    (/\{(?:id|name|team_id)\}/.test(path) && !/^\/v1\/(?:users|auth)\//.test(path)) ||
    (method === 'POST' && path === '/v1/snapshots'),
);

test.each(onResources.map((operation) => [operation.method, operation.path, operation] as const))(
  '%s %s does not find what another team owns',
  async (_method, path, operation) => {
    const response = await call(operation, await strangersKey());
    expect(response.status, await response.text()).toBe(UPGRADED.test(path) ? 400 : 404);
  },
);

test('lists have nothing of other teams', async () => {
  const key = await strangersKey();
  const lists = guarded.filter(
    ({ method, path, permission }) =>
      method === 'GET' && !path.includes('{') && permission !== 'platform',
  );
  for (const operation of lists) {
    const text = await (await call(operation, key)).text();
    for (const value of Object.values(owned)) expect(text, operation.path).not.toContain(value);
  }
});

test('what the first team owns is as it was', async () => {
  expect((await member.get(owned.sandbox)).status).toBe('running');
  expect((await member.call('GET', `/snapshots/${owned.snapshot}`)).status).toBe(200);
  expect((await member.call('GET', `/webhooks/${owned.webhook}`)).status).toBe(200);
  const host = rest.hostSchema.parse(
    await (await member.call('GET', `/hosts/${owned.host}`)).json(),
  );
  expect(host).toMatchObject({ name: 'owned', draining: false, tags: [] });
});
