import { once } from 'node:events';
import type { rest } from '@torpor/protocol';
import {
  errorOf,
  type Harness,
  logIn,
  newUser,
  PASSWORD,
  type Person,
  request,
  type Server,
  startHarness,
  tokenOf,
  until,
} from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { WebSocket } from 'ws';

let harness: Harness;
let server: Server;
let ada: Person;
beforeAll(async () => {
  harness = await startHarness();
  server = harness.controlPlane;
  ada = await newUser(server, 'ada@example.com', true);
});
afterAll(() => harness[Symbol.asyncDispose]());

const login = (body: object, headers: Record<string, string> = {}) =>
  request(server, 'POST', '/v1/auth/login', body, headers);

describe('a login', () => {
  test('works with any spelling of the email address, and says who it is', async () => {
    const response = await login({ email: ' ADA@Example.com', password: PASSWORD, mode: 'token' });
    expect(response.status).toBe(200);
    expect(response.headers.get('set-cookie')).toBeNull();
    expect(response.headers.get('cache-control')).toBe('no-store');
    expect(await response.json()).toMatchObject({
      user: { email: 'ada@example.com', is_admin: true },
      token: expect.stringMatching(/^tps_/),
    });
  });

  test('has the same error for an unknown account, a wrong password and an account without one', async () => {
    await harness.send('POST', '/v1/users', { email: 'no-password@example.com' });
    const errors = await Promise.all(
      [
        { email: 'nobody@example.com', password: PASSWORD },
        { email: 'ada@example.com', password: 'wrong password' },
        { email: 'ada@example.com', password: '' },
        { email: 'no-password@example.com', password: PASSWORD },
        { email: 'no-password@example.com', password: '' },
      ].map(async (body) => errorOf(await login(body))),
    );
    for (const error of errors) expect(error).toEqual(errors[0]);
    expect(errors[0]).toMatchObject({ status: 401, code: 'unauthorized' });
  });

  test.each([
    [{ email: 'ada', password: 'x' }, 'email'],
    [{ email: 'ada@example.com' }, 'password'],
    [{ email: 'ada@example.com', password: 'x', mode: 'jwt' }, 'mode'],
    [{ email: 'ada@example.com', password: 'x', admin: true }, 'admin'],
  ])('%j is refused', async (body, where) => {
    const error = await errorOf(await login(body));
    expect(error).toMatchObject({ status: 400, message: expect.stringContaining(where) });
  });

  test('needs all of a password of any length', async () => {
    const long = `${'x'.repeat(100)}é`.repeat(2);
    const eve = await newUser(server, 'eve@example.com');
    const change = { current_password: PASSWORD, new_password: long };
    expect((await eve.call('POST', '/v1/me/password', change)).status).toBe(204);
    expect((await login({ email: eve.email, password: long })).status).toBe(200);
    for (const password of [long.slice(0, 72), `${long.slice(0, -1)}e`, PASSWORD]) {
      expect((await login({ email: eve.email, password })).status).toBe(401);
    }
    const tooLong = { current_password: long, new_password: 'x'.repeat(257) };
    expect((await eve.call('POST', '/v1/me/password', tooLong)).status).toBe(400);
  });
});

describe('a cookie', () => {
  test.each<[string, Record<string, string>, RegExp]>([
    ['over HTTP', {}, /^torpor_session=tps_[^;]+; Path=\/; Expires=[^;]+; HttpOnly; SameSite=Lax$/],
    [
      'behind HTTPS',
      { 'x-forwarded-proto': 'https' },
      /^__Host-torpor_session=tps_[^;]+; Path=\/; Expires=[^;]+; HttpOnly; SameSite=Lax; Secure$/,
    ],
  ])('%s has the attributes that it needs', async (_, headers, expected) => {
    const response = await login({ email: ada.email, password: PASSWORD }, headers);
    expect(response.headers.get('set-cookie')).toMatch(expected);
    expect(await response.text()).not.toContain('tps_');
  });

  async function cookieOf(person: Person): Promise<string> {
    const response = await login({ email: person.email, password: PASSWORD });
    return (response.headers.get('set-cookie') ?? '').split(';')[0] ?? '';
  }

  test('counts for requests of pages of this server only', async () => {
    const cookie = await cookieOf(ada);
    const own = { cookie, origin: server.url };
    const foreign = { cookie, origin: 'http://evil.test' };
    const post = (headers: Record<string, string>) =>
      request(server, 'POST', '/v1/sandboxes', {}, headers);
    expect((await post(own)).status).toBe(201);
    const created = harness.agent.count('createSandbox');
    for (const headers of [
      foreign,
      { cookie },
      { cookie, origin: 'null' },
      { cookie, 'sec-fetch-site': 'cross-site' },
    ]) {
      expect(await errorOf(await post(headers))).toMatchObject({ status: 403, code: 'forbidden' });
    }
    expect(harness.agent.count('createSandbox')).toBe(created);
    const get = (headers: Record<string, string>) =>
      request(server, 'GET', '/v1/me', undefined, headers);
    expect((await get({ cookie })).status).toBe(200);
    expect((await get(foreign)).status).toBe(403);
    // Browsers do not send these by themselves.
    const bearer = { origin: 'http://evil.test', authorization: `Bearer ${ada.token}` };
    expect((await get(bearer)).status).toBe(200);
  });

  test('cannot be set by the page of another site', async () => {
    const origin = 'http://evil.test';
    for (const [path, body] of [
      ['/v1/auth/login', { email: ada.email, password: PASSWORD }],
      ['/v1/auth/signup', { email: 'x@example.com', password: PASSWORD, name: 'X' }],
      ['/v1/auth/password', { token: 'tpp_', new_password: PASSWORD }],
    ] as const) {
      const response = await request(server, 'POST', path, body, { origin });
      expect(response.status, path).toBe(403);
      expect(response.headers.get('set-cookie')).toBeNull();
    }
  });

  test('opens a WebSocket only from a page of this server', async () => {
    const cookie = await cookieOf(ada);
    const sandbox = await harness.create();
    const url = `${server.url.replace('http', 'ws')}/v1/sandboxes/${sandbox.id}/pty`;
    const open = new WebSocket(url, { headers: { cookie, origin: server.url } });
    await once(open, 'open');
    open.close();
    for (const headers of [{ cookie, origin: 'http://evil.test' }, { cookie }]) {
      const refused = new WebSocket(url, { headers });
      const [, response] = await once(refused, 'unexpected-response');
      expect(response.statusCode).toBe(403);
      refused.on('error', () => undefined).terminate();
    }
    const byToken = new WebSocket(url, { headers: { authorization: `Bearer ${ada.token}` } });
    await once(byToken, 'open');
    byToken.close();
  });

  test('is removed by a logout, which ends the session', async () => {
    const cookie = await cookieOf(ada);
    const headers = { cookie, origin: server.url };
    const response = await request(server, 'POST', '/v1/auth/logout', undefined, headers);
    expect(response.status).toBe(204);
    expect(response.headers.get('set-cookie')).toMatch(/^torpor_session=; .*1970/);
    expect((await request(server, 'GET', '/v1/me', undefined, headers)).status).toBe(401);
  });
});

describe('sessions', () => {
  test('are listed with where they were begun, and never with a token', async () => {
    const person = await logIn(server, ada.email);
    const text = await (await person.call('GET', '/v1/auth/sessions')).text();
    const sessions = JSON.parse(text) as rest.Session[];
    expect(text).not.toContain('tps_');
    expect(sessions.filter(({ current }) => current)).toHaveLength(1);
    expect(sessions[0]).toMatchObject({ current: true, address: '127.0.0.1', user_agent: 'node' });
  });

  test('are refused from the request after their revocation on, and only the own ones can be revoked', async () => {
    const [first, second] = [await logIn(server, ada.email), await logIn(server, ada.email)];
    const sessions = await second.json<rest.Session[]>('GET', '/v1/auth/sessions');
    const id = sessions.find(({ current }) => !current)?.id ?? '';
    const mallory = await newUser(server, 'mallory@example.com');
    const path = `/v1/auth/sessions/${id}`;
    expect((await mallory.call('DELETE', path)).status).toBe(404);
    expect((await first.call('GET', '/v1/sandboxes')).status).toBe(200);
    expect((await second.call('DELETE', path)).status).toBe(204);
    expect(await errorOf(await first.call('GET', '/v1/sandboxes'))).toMatchObject({ status: 401 });
    expect((await second.call('DELETE', path)).status).toBe(404);
  });

  test('other than the one that changes the password end', async () => {
    const person = await newUser(server, 'change@example.com');
    const other = await logIn(server, person.email);
    const next = 'another long password';
    const change = (current_password?: string) =>
      person.call('POST', '/v1/me/password', { current_password, new_password: next });
    expect((await change('wrong')).status).toBe(403);
    expect((await change()).status).toBe(403);
    expect((await other.call('GET', '/v1/me')).status).toBe(200);
    expect((await change(PASSWORD)).status).toBe(204);
    expect((await person.call('GET', '/v1/me')).status).toBe(200);
    expect((await other.call('GET', '/v1/me')).status).toBe(401);
    await logIn(server, person.email, next);
  });

  test.each(['tps_', `tps_${'A'.repeat(43)}`, 'tps_%00', 'tpr_x', '-'])(
    '%s is none',
    async (token) => {
      const headers = { authorization: `Bearer ${token}` };
      expect((await request(server, 'GET', '/v1/me', undefined, headers)).status).toBe(401);
    },
  );
});

describe('links that set a password', () => {
  const set = (token: string, password = 'from the link') =>
    request(server, 'POST', '/v1/auth/password', { token, new_password: password });

  test('work once, end all sessions, and replace the earlier one', async () => {
    const person = await newUser(server, 'link@example.com');
    const path = `/v1/users/${person.id}/password-link`;
    const earlier = tokenOf(await ada.json<rest.OneTimeLink>('POST', path));
    const link = await ada.json<rest.OneTimeLink>('POST', path);
    expect(link.link).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/password#tpp_/);
    expect((await set(earlier)).status).toBe(404);
    expect((await set(tokenOf(link), 'short')).status).toBe(400);
    const both = await Promise.all([set(tokenOf(link)), set(tokenOf(link))]);
    expect(both.map(({ status }) => status).toSorted()).toEqual([204, 404]);
    expect((await person.call('GET', '/v1/me')).status).toBe(401);
    await logIn(server, person.email, 'from the link');
  });

  test('end when the user changes the password', async () => {
    const person = await newUser(server, 'changes@example.com');
    const link = await ada.json<rest.OneTimeLink>('POST', `/v1/users/${person.id}/password-link`);
    const change = { current_password: PASSWORD, new_password: `${PASSWORD}!` };
    expect((await person.call('POST', '/v1/me/password', change)).status).toBe(204);
    expect((await set(tokenOf(link))).status).toBe(404);
  });

  test('are for operators to make', async () => {
    const person = await newUser(server, 'plain@example.com');
    for (const [method, path] of [
      ['POST', `/v1/users/${ada.id}/password-link`],
      ['GET', '/v1/users'],
      ['PATCH', `/v1/users/${person.id}`],
      ['POST', '/v1/users'],
    ] as const) {
      const body = method === 'GET' ? undefined : { is_admin: true };
      expect((await person.call(method, path, body)).status, `${method} ${path}`).toBe(403);
    }
    expect((await ada.call('POST', '/v1/users/usnobody/password-link')).status).toBe(404);
  });
});

describe('an account', () => {
  test('that is disabled loses its sessions and keys at once', async () => {
    const person = await newUser(server, 'disabled@example.com');
    const scopes = ['sandboxes.read', 'keys.write'];
    const { key } = await person.json<rest.CreatedApiKey>('POST', '/v1/api-keys', {
      name: 'a',
      scopes,
    });
    const byKey = { 'x-api-key': key };
    const made = await request(server, 'POST', '/v1/api-keys', { name: 'b', scopes }, byKey);
    const second = ((await made.json()) as rest.CreatedApiKey).key;
    const listWith = (headers: Record<string, string>) =>
      request(server, 'GET', '/v1/sandboxes', undefined, headers).then(({ status }) => status);
    expect(await listWith({ 'x-api-key': second })).toBe(200);
    const disable = (status: string) => ada.call('PATCH', `/v1/users/${person.id}`, { status });
    expect((await disable('disabled')).status).toBe(200);
    expect((await person.call('GET', '/v1/me')).status).toBe(401);
    expect(await listWith(byKey)).toBe(401);
    expect(await listWith({ 'x-api-key': second })).toBe(401);
    const refused = await errorOf(await login({ email: person.email, password: PASSWORD }));
    expect(refused).toMatchObject({ status: 403, message: expect.stringContaining('disabled') });
    await disable('active');
    await logIn(server, person.email);
  });

  test('of an operator cannot take that from itself, and another can', async () => {
    const other = await newUser(server, 'operator@example.com', true);
    const team = '/v1/teams/tm00000000000000000000';
    const made = await other.call(
      'POST',
      '/v1/api-keys',
      { name: 'p', scopes: ['sandboxes.read'] },
      { 'x-team-id': 'tm00000000000000000000' },
    );
    const ofPlatform = (await made.json()) as rest.CreatedApiKey;
    const operators = await other.json<rest.Member[]>('GET', `${team}/members`);
    expect(operators.map(({ email }) => email)).toEqual([ada.email, other.email]);
    expect((await other.call('POST', `${team}/invitations`, {})).status).toBe(403);
    expect((await other.call('DELETE', team)).status).toBe(403);
    const scopes = ['platform', 'sandboxes.read'];
    const { key } = await other.json<rest.CreatedApiKey>('POST', '/v1/api-keys', {
      name: 'op',
      scopes,
    });
    expect((await other.call('PATCH', `/v1/users/${other.id}`, { is_admin: false })).status).toBe(
      409,
    );
    expect(
      (await other.call('PATCH', `/v1/users/${other.id}`, { status: 'disabled' })).status,
    ).toBe(409);
    expect((await ada.call('PATCH', `/v1/users/${other.id}`, { is_admin: false })).status).toBe(
      200,
    );
    expect((await other.call('GET', '/v1/users')).status).toBe(403);
    const platform = { 'x-api-key': ofPlatform.key };
    expect((await request(server, 'GET', '/v1/sandboxes', undefined, platform)).status).toBe(401);
    const headers = { 'x-api-key': key };
    expect((await request(server, 'GET', '/v1/users', undefined, headers)).status).toBe(401);
  });

  test('is deleted with a confirmation, unless it owns a team', async () => {
    const person = await newUser(server, 'delete@example.com');
    const remove = (confirmation: string) => person.call('DELETE', '/v1/me', { confirmation });
    expect((await remove('ada@example.com')).status).toBe(400);
    expect(await errorOf(await remove(person.email))).toMatchObject({ status: 409 });
    const [team] = await person.json<rest.Team[]>('GET', '/v1/teams');
    expect((await person.call('DELETE', `/v1/teams/${team?.id}`)).status).toBe(204);
    expect((await remove(person.email)).status).toBe(204);
    expect((await person.call('GET', '/v1/me')).status).toBe(401);
    expect((await login({ email: person.email, password: PASSWORD })).status).toBe(401);
  });

  test('is made for everyone only where the setting says so', async () => {
    const body = { email: 'new@example.com', name: 'New', password: PASSWORD };
    const closed = await errorOf(await request(server, 'POST', '/v1/auth/signup', body));
    expect(closed).toMatchObject({ status: 403, remedy: expect.stringContaining('sign_up') });
  });
});

test('an API key counts in either header, and neither kind of token is called the other', async () => {
  const { api_key: apiKey } = await ada.json<rest.Caller>('GET', '/v1/me');
  expect(apiKey).toBeUndefined();
  const { key } = await ada.json<rest.CreatedApiKey>('POST', '/v1/api-keys', { name: 'bearer' });
  const whoAmI = (authorization: string) =>
    request(server, 'GET', '/v1/me', undefined, { authorization });
  expect(await (await whoAmI(`Bearer ${key}`)).json()).toMatchObject({
    api_key: { name: 'bearer' },
  });
  const refused = async (authorization: string) =>
    (await errorOf(await whoAmI(authorization))).message;
  expect(await refused(`Bearer tpr_${'0'.repeat(40)}`)).toBe('The API key is not valid.');
  expect(await refused(`Bearer tps_${'0'.repeat(43)}`)).toBe(
    'The session has expired, or was ended.',
  );
  expect(await refused('Basic YTpi')).toBe('The request has no API key, and no session.');
});

test('an API key has no sessions and no account', async () => {
  for (const [method, path] of [
    ['GET', '/v1/auth/sessions'],
    ['POST', '/v1/auth/logout'],
    ['POST', '/v1/teams'],
    ['POST', '/v1/me/password'],
  ] as const) {
    const response = await harness.request(path, { method });
    expect(response.status, path).toBe(403);
  }
  const me = (await (await harness.request('/v1/me')).json()) as rest.Caller;
  expect(me).toMatchObject({
    type: 'api_key',
    api_key: { name: 'local' },
    team: { name: 'Default' },
  });
});

test('failed logins are in the audit log, those of unknown accounts in that of the platform', async () => {
  const logins =
    (headers: Record<string, string> = {}) =>
    async (): Promise<rest.AuditEntry[]> => {
      const path = '/v1/audit-logs?status=error&resource_type=user';
      const response = await ada.call('GET', path, undefined, headers);
      return ((await response.json()) as rest.AuditPage).items;
    };
  const ofTeam = logins();
  const ofPlatform = logins({ 'x-team-id': 'tm00000000000000000000' });
  const before = [(await ofTeam()).length, (await ofPlatform()).length];
  await login({ email: ada.email, password: 'wrong password' });
  await login({ email: 'secret-in-the-wrong-field@example.com', password: PASSWORD });
  const change = { current_password: 'wrong password', new_password: 'another password' };
  expect((await ada.call('POST', '/v1/me/password', change)).status).toBe(403);
  await until(async () => (await ofTeam()).length >= (before[0] ?? 0) + 2);
  await until(async () => (await ofPlatform()).length > (before[1] ?? 0));
  const known = (await ofTeam()).slice(0, 2);
  expect(new Set(known.map(({ action }) => action))).toEqual(new Set(['login', 'change_password']));
  for (const entry of known) expect(entry).toMatchObject({ resource_id: ada.id, scope: 'admin' });
  expect((await ofPlatform())[0]).toMatchObject({
    action: 'login',
    resource_id: 'unknown',
    actor_type: 'system',
    metadata: { address: '127.0.0.1' },
  });
  expect(JSON.stringify(await ofPlatform())).not.toContain('wrong-field');
});

test('logins are in the audit log of the team, for admins, and no secret is in the log of the server', async () => {
  const { team } = await ada.json<rest.Caller>('GET', '/v1/me');
  await until(async () => {
    const { items } = await ada.json<rest.AuditPage>('GET', '/v1/audit-logs?action=login');
    return items.some(
      (entry) =>
        entry.actor_type === 'user' &&
        entry.actor_id === ada.id &&
        entry.scope === 'admin' &&
        entry.metadata?.address === '127.0.0.1',
    );
  });
  expect(team?.role).toBe('owner');
  for (const secret of [PASSWORD, ada.token, 'tps_', 'tpp_', 'from the link']) {
    expect(harness.log()).not.toContain(secret);
  }
});
