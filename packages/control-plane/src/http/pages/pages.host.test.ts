import type { rest } from '@torpor/protocol';
import {
  errorOf,
  type Harness,
  newUser,
  PASSWORD,
  type Person,
  request,
  startHarness,
  tokenOf,
} from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

let harness: Harness;
let ada: Person;
beforeAll(async () => {
  harness = await startHarness();
  ada = await newUser(harness.controlPlane, 'ada@example.com');
});
afterAll(() => harness[Symbol.asyncDispose]());

const url = () => harness.controlPlane.url;
const cookieOf = ({ token }: Person) => `torpor_session=${token}`;

/** As a browser that comes from another site. */
function open(path: string, cookie = ''): Promise<Response> {
  const headers = { cookie, 'sec-fetch-site': 'cross-site', accept: 'text/html' };
  return fetch(`${url()}${path}`, { headers, redirect: 'manual' });
}

function submit(
  path: string,
  form: Record<string, string>,
  cookie = '',
  headers: Record<string, string> = { origin: url() },
): Promise<Response> {
  const body = new URLSearchParams(form);
  return fetch(`${url()}${path}`, {
    method: 'POST',
    body,
    headers: { cookie, ...headers },
    redirect: 'manual',
  });
}

async function begin(userAgent = 'torpor/1'): Promise<rest.DeviceLogin> {
  const agent = { 'user-agent': userAgent };
  const response = await request(harness.controlPlane, 'POST', '/v1/auth/device', {}, agent);
  expect(response.status).toBe(201);
  return (await response.json()) as rest.DeviceLogin;
}

const poll = (code: string) =>
  request(harness.controlPlane, 'POST', '/v1/auth/device/token', { device_code: code });

const decide = (code: string, decision: string, cookie = cookieOf(ada)) =>
  submit('/device/decision', { user_code: code, decision }, cookie);

describe('a program without a browser', () => {
  test('gets a session, once, after its user has compared the code and approved', async () => {
    const device = await begin('torpor/1 <b>');
    expect(device).toMatchObject({
      user_code: expect.stringMatching(/^[B-DF-HJ-NP-TV-XZ]{4}-[B-DF-HJ-NP-TV-XZ]{4}$/),
      verification_uri: `${url()}/device`,
      interval: 5,
    });
    const pending = await poll(device.device_code);
    expect([pending.status, await pending.json()]).toEqual([
      202,
      { status: 'pending', interval: 5 },
    ]);
    const anonymous = await open('/device');
    expect(anonymous.headers.get('location')).toBe('/login?return_to=%2Fdevice');
    expect((await open('/device', cookieOf(ada))).status).toBe(200);
    const typed = device.user_code.toLowerCase().replace('-', ' ');
    const page = await submit('/device', { user_code: typed }, cookieOf(ada));
    const text = await page.text();
    for (const part of ['ada@example.com', '127.0.0.1', 'torpor/1 &lt;b&gt;', typed]) {
      expect(text).toContain(part);
    }
    expect((await decide(typed, 'approved')).status).toBe(200);
    const response = await poll(device.device_code);
    const { user, token = '' } = (await response.json()) as rest.StartedSession;
    expect([response.status, user.id]).toEqual([200, ada.id]);
    const me = { authorization: `Bearer ${token}` };
    expect((await request(harness.controlPlane, 'GET', '/v1/me', undefined, me)).status).toBe(200);
    expect((await poll(device.device_code)).status).toBe(404);
    expect((await decide(device.user_code, 'approved')).status).toBe(404);
  });

  test('gets none if its user declines', async () => {
    const { device_code: code, user_code: typed } = await begin();
    expect((await decide(typed, 'denied')).status).toBe(200);
    expect(await errorOf(await poll(code))).toMatchObject({ status: 403, code: 'forbidden' });
    expect((await decide(typed, 'approved')).status).toBe(404);
  });

  test('has to wait between its requests', async () => {
    const { device_code: code } = await begin();
    expect((await poll(code)).status).toBe(202);
    const early = await poll(code);
    expect([early.status, early.headers.get('retry-after')]).toEqual([429, '5']);
    expect((await poll('unknown')).status).toBe(404);
  });

  test('gets none of a user who was disabled in the meantime', async () => {
    const eve = await newUser(harness.controlPlane, 'eve@example.com');
    const { device_code: code, user_code: typed } = await begin();
    expect((await decide(typed, 'approved', cookieOf(eve))).status).toBe(200);
    await harness.request(`/v1/users/${eve.id}`, {
      method: 'PATCH',
      body: JSON.stringify({ status: 'disabled' }),
      headers: { 'content-type': 'application/json' },
    });
    expect((await poll(code)).status).toBe(403);
  });

  test('cannot have its code found by trying', async () => {
    const eve = await newUser(harness.controlPlane, 'guess@example.com');
    const { user_code: typed } = await begin();
    let status = 404;
    for (let attempt = 0; attempt < 20 && status === 404; attempt += 1) {
      ({ status } = await submit('/device', { user_code: 'BBBB-BBBB' }, cookieOf(eve)));
    }
    expect(status).toBe(404);
    const limited = await decide(typed, 'approved', cookieOf(eve));
    expect(limited.status).toBe(429);
  });
});

describe('a form', () => {
  test.each<[string, Record<string, string>]>([
    ['another site', { origin: 'https://evil.test' }],
    ['no page', {}],
    ['a page without an origin', { origin: 'null' }],
    ['another site, says the browser', { 'sec-fetch-site': 'cross-site' }],
  ])('of %s is refused', async (_, headers) => {
    const { user_code: typed, device_code: code } = await begin();
    const form = { user_code: typed, decision: 'approved' };
    const refused = await submit('/device/decision', form, cookieOf(ada), headers);
    expect(refused.status).toBe(403);
    expect((await poll(code)).status).toBe(202);
    const login = { email: ada.email, password: PASSWORD };
    const response = await submit('/login', login, '', headers);
    expect([response.status, response.headers.get('set-cookie')]).toEqual([403, null]);
  });

  test('does nothing without a session', async () => {
    const { user_code: typed } = await begin();
    expect((await decide(typed, 'approved', '')).status).toBe(401);
    const withKey = { origin: url(), 'x-api-key': harness.controlPlane.apiKey };
    const form = { user_code: typed, decision: 'approved' };
    expect((await submit('/device/decision', form, '', withKey)).status).toBe(401);
  });
});

test('every page forbids scripts, frames and forms of others, and is not kept', async () => {
  for (const path of ['/login', '/join', '/password', '/reset']) {
    const { headers, status } = await open(path);
    expect(status, path).toBe(200);
    const policy = headers.get('content-security-policy') ?? '';
    for (const rule of ["default-src 'none'", "frame-ancestors 'none'", "form-action 'self'"]) {
      expect(policy).toContain(rule);
    }
    expect(policy).not.toContain('unsafe');
    expect(headers.get('cache-control')).toBe('no-store');
  }
});

test('a user logs in, and out, with a page', async () => {
  const wrong = await submit('/login', { email: ada.email, password: '<i>' });
  expect([wrong.status, wrong.headers.get('set-cookie')]).toEqual([401, null]);
  const form = { email: ada.email, password: PASSWORD, return_to: '/device' };
  const response = await submit('/login', form);
  expect([response.status, response.headers.get('location')]).toEqual([303, '/device']);
  const [cookie = ''] = (response.headers.get('set-cookie') ?? '').split(';');
  expect(await (await open('/login', cookie)).text()).toContain('ada@example.com');
  const abroad = await submit('/login', { ...form, return_to: '//evil.test' });
  expect(abroad.status).toBe(400);
  expect((await submit('/logout', {}, cookie)).status).toBe(303);
  expect(await (await open('/login', cookie)).text()).not.toContain('ada@example.com');
});

test('links of invitations and passwords lead to pages', async () => {
  const team = await ada.json<rest.Team>('POST', '/v1/teams', { name: '<b>Team' });
  const invite = async () => {
    const path = `/v1/teams/${team.id}/invitations`;
    const invitation = await ada.json<rest.CreatedInvitation>('POST', path, {});
    expect(new URL(invitation.link).pathname).toBe('/join');
    return tokenOf(invitation);
  };
  const first = await invite();
  const page = await (await submit('/join', { token: first })).text();
  expect(page).toContain('&lt;b&gt;Team');
  const account = { email: 'new@example.com', name: 'New', new_password: 'first password' };
  const signedUp = await submit('/join/sign-up', { token: first, ...account });
  expect([signedUp.status, signedUp.headers.get('set-cookie')]).toEqual([
    303,
    expect.stringContaining('tps_'),
  ]);
  expect((await submit('/join', { token: first })).status).toBe(404);
  const bob = await newUser(harness.controlPlane, 'bob@example.com');
  const second = await invite();
  expect((await submit('/join', { token: second }, cookieOf(bob))).status).toBe(200);
  expect((await submit('/join/accept', { token: second }, cookieOf(bob))).status).toBe(200);
  const teams = await bob.json<rest.Team[]>('GET', '/v1/teams');
  expect(teams.map(({ id }) => id)).toContain(team.id);
  const made = await harness.send('POST', '/v1/users', { email: 'made@example.com' });
  const token = tokenOf((await made.json()) as rest.CreatedUser);
  const set = () => submit('/password', { token, new_password: 'chosen password' });
  expect((await set()).status).toBe(200);
  expect((await set()).status).toBe(404);
  expect(
    (await submit('/login', { email: 'made@example.com', password: 'chosen password' })).status,
  ).toBe(303);
});
