import type { rest } from '@torpor/protocol';
import {
  errorOf,
  Fleet,
  logIn,
  type Member,
  newUser,
  PASSWORD,
  type Person,
  request,
  type Server,
  tokenOf,
  until,
} from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, expect, test } from 'vitest';

/** Attempts on one account from one client. */
const ATTEMPTS = 10;

let fleet: Fleet;
/** Two control planes on one database, which believe the X-Forwarded-For of this machine. */
let planes: Member[];
let ada: Person;

beforeAll(async () => {
  fleet = await Fleet.open();
  const trustedProxies = ['127.0.0.0/8'];
  planes = [await fleet.join({ trustedProxies }), await fleet.join({ trustedProxies })];
  ada = await newUser(serverAt(0), 'ada@example.com');
});
afterAll(() => fleet[Symbol.asyncDispose]());

function serverAt(index: number): Server {
  const plane = planes[index % planes.length];
  if (plane === undefined) throw new Error('no control plane');
  return plane.controlPlane;
}

function login(index: number, from: string, email: string, password: string): Promise<Response> {
  const headers = { 'x-forwarded-for': from };
  return request(serverAt(index), 'POST', '/v1/auth/login', { email, password }, headers);
}

/** As many attempts at once, half of them at each control plane; how many had each status. */
async function storm(count: number, from: string, email: string) {
  const statuses = await Promise.all(
    Array.from({ length: count }, async (_, index) => {
      return (await login(index, from, email, 'wrong password')).status;
    }),
  );
  return {
    tried: statuses.filter((status) => status === 401).length,
    refused: statuses.filter((status) => status === 429).length,
  };
}

test('two control planes let through as many attempts as one, however many come at once', async () => {
  expect(await storm(3 * ATTEMPTS, '198.51.100.1', ada.email)).toEqual({
    tried: ATTEMPTS,
    refused: 2 * ATTEMPTS,
  });
  // An account that does not exist is locked the same.
  expect(await storm(2 * ATTEMPTS, '198.51.100.2', 'nobody@example.com')).toEqual({
    tried: ATTEMPTS,
    refused: ATTEMPTS,
  });
  for (const index of [0, 1]) {
    const response = await login(index, '198.51.100.1', ada.email, PASSWORD);
    const retryAfter = Number(response.headers.get('retry-after'));
    expect(retryAfter).toBeGreaterThan(0);
    expect(retryAfter).toBeLessThanOrEqual(15 * 60);
    expect(await errorOf(response)).toMatchObject({ status: 429, code: 'rate_limited' });
  }
  // Nobody can lock the owner of an account out from elsewhere.
  expect((await login(0, '198.51.100.3', ada.email, PASSWORD)).status).toBe(200);
  // It was recorded once.
  const locked = () => fleet.count(`audit_logs where action = 'lock'`);
  await until(async () => (await locked()) === 1);
  const { rows } = await fleet.database.query(
    `select resource_id, status, scope, metadata from audit_logs where action = 'lock'`,
  );
  expect(rows).toEqual([
    {
      resource_id: ada.id,
      status: 'error',
      scope: 'admin',
      metadata: { address: '198.51.100.1' },
    },
  ]);
});

test('what is refused for one client does not use up what others have', async () => {
  await fleet.database.query('delete from credential_attempts');
  await storm(ATTEMPTS + 1, '198.51.100.5', ada.email);
  const counts = async () => {
    const { rows } = await fleet.database.query('select attempts from credential_attempts');
    return rows.map(({ attempts }) => attempts).toSorted((a: number, b: number) => a - b);
  };
  expect(await counts()).toEqual([ATTEMPTS, ATTEMPTS, ATTEMPTS + 1]);
  await storm(ATTEMPTS, '198.51.100.5', ada.email);
  expect(await counts()).toEqual([ATTEMPTS, ATTEMPTS, 2 * ATTEMPTS + 1]);
});

test('a success does not count, and does not make up for failures', async () => {
  const from = '198.51.100.10';
  await fleet.database.query('delete from credential_attempts');
  expect((await login(0, from, ada.email, 'wrong password')).status).toBe(401);
  await fleet.database.query('update credential_attempts set attempts = $1', [ATTEMPTS - 1]);
  for (const index of [0, 1]) {
    expect((await login(index, from, ada.email, PASSWORD)).status).toBe(200);
  }
  expect((await login(1, from, ada.email, 'wrong password')).status).toBe(401);
  expect((await login(0, from, ada.email, PASSWORD)).status).toBe(429);
});

test('a lock ends with its window', async () => {
  const from = '198.51.100.20';
  await storm(ATTEMPTS + 1, from, ada.email);
  expect((await login(0, from, ada.email, PASSWORD)).status).toBe(429);
  await fleet.database.query('update credential_attempts set window_ends_at = now()');
  expect((await login(1, from, ada.email, PASSWORD)).status).toBe(200);
});

test('what has expired is not valid, and is removed', async () => {
  await fleet.database.query('delete from credential_attempts');
  const { id: teamId = '' } = (await ada.json<Partial<rest.Team>[]>('GET', '/v1/teams'))[0] ?? {};
  const invitations = `/v1/teams/${teamId}/invitations`;
  const invitation = await ada.json<rest.CreatedInvitation>('POST', invitations, {});
  const key = { 'x-api-key': serverAt(0).apiKey };
  const path = `/v1/users/${ada.id}/password-link`;
  const made = await request(serverAt(0), 'POST', path, undefined, key);
  const link = tokenOf((await made.json()) as rest.OneTimeLink);
  for (const table of ['sessions', 'invitations', 'password_links']) {
    await fleet.database.query(`update ${table} set expires_at = now()`);
  }
  expect((await ada.call('GET', '/v1/me')).status).toBe(401);
  const again = await logIn(serverAt(1), ada.email);
  expect(await again.json('GET', invitations)).toEqual([]);
  expect(await again.json('GET', '/v1/auth/sessions')).toHaveLength(1);
  const signUp = { email: 'late@example.com', name: 'L', password: PASSWORD };
  for (const [url, body] of [
    ['/v1/invitations/preview', { token: tokenOf(invitation) }],
    ['/v1/auth/signup', { ...signUp, invitation: tokenOf(invitation) }],
    ['/v1/auth/password', { token: link, new_password: 'another password' }],
  ] as const) {
    expect((await request(serverAt(0), 'POST', url, body)).status, url).toBe(404);
  }
  const accepted = await again.call('POST', '/v1/invitations/accept', {
    token: tokenOf(invitation),
  });
  expect(accepted.status).toBe(404);
  // A control plane that starts removes them.
  await fleet.join();
  await until(async () => (await fleet.count('invitations')) === 0);
  await until(async () => (await fleet.count('password_links')) === 0);
  await until(async () => (await fleet.count('sessions')) === 1);
  ada = again;
});

test('one client has a limited number of attempts on whatever there is', async () => {
  const headers = { 'x-forwarded-for': '2001:db8:1:2::1' };
  const attempt = (index: number, address: string) =>
    request(
      serverAt(index),
      'POST',
      '/v1/invitations/preview',
      { token: 'tpi_x' },
      { ...headers, 'x-forwarded-for': address },
    );
  await attempt(0, '2001:db8:1:2::1');
  await fleet.database.query('update credential_attempts set attempts = 100 where attempts = 1');
  // Another address of the same network.
  expect((await attempt(1, '2001:db8:1:2::ffff')).status).toBe(429);
  const signUp = { email: 'a@example.com', name: 'A', password: PASSWORD };
  const paths: [string, object][] = [
    ['/v1/auth/login', { email: 'a@example.com', password: PASSWORD }],
    ['/v1/auth/signup', signUp],
    ['/v1/auth/password', { token: 'tpp_x', new_password: PASSWORD }],
  ];
  for (const [path, body] of paths) {
    expect((await request(serverAt(0), 'POST', path, body, headers)).status, path).toBe(429);
  }
  expect((await attempt(0, '2001:db8:1:3::1')).status).toBe(404);
});
