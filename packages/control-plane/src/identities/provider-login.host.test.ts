import type { rest } from '@torpor/protocol';
import {
  errorOf,
  Fleet,
  type Member,
  newUser,
  type Person,
  request,
} from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { ControlPlane } from '../control-plane.ts';
import {
  CLIENT_ID,
  CLIENT_SECRET,
  type Forgery,
  StandInGithub,
  StandInOidc,
  type StandInUser,
} from './stand-in-providers.ts';

const PUBLIC_URL = 'https://torpor.test';

let fleet: Fleet;
let oidc: StandInOidc;
let github: StandInGithub;
let controlPlane: ControlPlane;
let other: ControlPlane;
let open: ControlPlane;
beforeAll(async () => {
  fleet = await Fleet.open();
  oidc = await new StandInOidc().listen();
  github = await new StandInGithub().listen();
  const client = { clientId: CLIENT_ID, clientSecret: CLIENT_SECRET };
  const providers = {
    oidc: { ...client, url: oidc.url, name: 'Acme' },
    github: { ...client, url: github.url },
  };
  const options = { publicUrl: PUBLIC_URL, providers, signUpDomains: ['acme.test'] };
  const join = async (more = {}): Promise<Member> => fleet.join({ ...options, ...more });
  ({ controlPlane } = await join());
  ({ controlPlane: other } = await join());
  ({ controlPlane: open } = await join({ signUpOpen: true }));
});
afterAll(async () => {
  await fleet[Symbol.asyncDispose]();
  await oidc[Symbol.asyncDispose]();
  await github[Symbol.asyncDispose]();
});

/** A browser: it keeps cookies, and says which page it is on. */
class Browser {
  readonly cookies = new Map<string, string>();
  server: ControlPlane;

  constructor(server: ControlPlane = controlPlane) {
    this.server = server;
  }

  async get(path: string, headers: Record<string, string> = {}): Promise<Response> {
    return this.#keep(await request(this.server, 'GET', path, undefined, this.#headers(headers)));
  }

  async post(path: string, body: object = {}): Promise<Response> {
    const headers = this.#headers({ origin: PUBLIC_URL });
    return this.#keep(await request(this.server, 'POST', path, body, headers));
  }

  async delete(path: string): Promise<Response> {
    return request(this.server, 'DELETE', path, undefined, this.#headers({ origin: PUBLIC_URL }));
  }

  /** Goes to the provider, agrees, and comes back. */
  async logIn(
    user: StandInUser,
    provider: 'oidc' | 'github' = 'oidc',
    start?: object,
  ): Promise<Response> {
    const url = await this.begin(provider, start);
    const standIn = provider === 'oidc' ? oidc : github;
    return this.return(standIn.authorize(url, user));
  }

  async begin(provider: 'oidc' | 'github' = 'oidc', start: object = {}): Promise<URL> {
    const response = await this.post(`/v1/auth/oauth/${provider}/start`, start);
    if (!response.ok) throw new Error(await response.text());
    return new URL(((await response.json()) as rest.ProviderUrl).url);
  }

  /** As a browser that another site sends here. */
  return(callback: URL): Promise<Response> {
    return this.get(`${callback.pathname}${callback.search}`, { 'sec-fetch-site': 'cross-site' });
  }

  async me(): Promise<rest.Caller | undefined> {
    const response = await this.get('/v1/me', { 'sec-fetch-site': 'same-origin' });
    return response.ok ? ((await response.json()) as rest.Caller) : undefined;
  }

  #headers(headers: Record<string, string>): Record<string, string> {
    const cookie = [...this.cookies].map(([name, value]) => `${name}=${value}`).join('; ');
    return { ...(cookie === '' ? {} : { cookie }), ...headers };
  }

  #keep(response: Response): Response {
    for (const cookie of response.headers.getSetCookie()) {
      const [, name = '', value = ''] = /^([^=]+)=([^;]*)/.exec(cookie) ?? [];
      this.cookies.set(name, value);
    }
    return response;
  }
}

let subjects = 1000;
const newSubject = () => String(++subjects);

describe.each(['oidc', 'github'] as const)('a login with %s', (provider) => {
  test('makes an account at first, and is of the same account later, whatever its address', async () => {
    const subject = newSubject();
    const user = { subject, email: `Eve${subject}@Acme.test`, name: ' Eve\u202e\nX ' };
    const browser = new Browser();
    const response = await browser.logIn(user, provider, { return_to: '/device?x=1' });
    expect([response.status, response.headers.get('location')]).toEqual([303, '/device?x=1']);
    const cookie = response.headers.getSetCookie().join();
    expect(cookie).toMatch(/__Host-torpor_session=tps_[^;]+;.*HttpOnly; SameSite=Lax; Secure/);
    const first = await browser.me();
    expect(first).toMatchObject({
      user: {
        email: `eve${subject}@acme.test`,
        name: 'Eve X',
        has_password: false,
        is_admin: false,
      },
      team: { role: 'owner' },
    });
    const again = new Browser(other);
    await again.logIn({ ...user, email: 'moved@elsewhere.test', verified: false }, provider);
    expect((await again.me())?.user?.id).toBe(first?.user?.id);
    const list = await again.get('/v1/me/identities', { 'sec-fetch-site': 'same-origin' });
    expect(await list.json()).toMatchObject([{ provider, id: expect.stringMatching(/^idn/) }]);
  });

  test('needs a verified email address to make an account', async () => {
    for (const user of [
      { subject: newSubject(), email: 'x@acme.test', verified: false },
      { subject: newSubject() },
    ]) {
      const browser = new Browser();
      const error = await errorOf(await browser.logIn(user, provider));
      expect(error).toMatchObject({ status: 403, message: expect.stringContaining('verified') });
      expect(await browser.me()).toBeUndefined();
    }
  });

  test('never gives access to an account with the same address that somebody uses', async () => {
    const email = `ada-${provider}@acme.test`;
    const ada = await newUser(controlPlane, email);
    const stranger = new Browser();
    const error = await errorOf(await stranger.logIn({ subject: newSubject(), email }, provider));
    expect(error).toMatchObject({ status: 409, code: 'conflict' });
    expect(await stranger.me()).toBeUndefined();
    expect(await ada.json('GET', '/v1/me/identities')).toEqual([]);
  });

  test('can be added by a user who is logged in, and removed', async () => {
    const ada = await newUser(controlPlane, `linked-${provider}@elsewhere.test`);
    const browser = loggedIn(ada);
    const user = { subject: newSubject(), email: 'any@where.test', verified: false };
    const response = await link(browser, user, provider);
    expect([response.status, response.headers.get('location')]).toEqual([303, '/login']);
    const again = new Browser();
    await again.logIn(user, provider);
    expect((await again.me())?.user?.id).toBe(ada.id);
    // Of nobody else at the same time.
    const eve = loggedIn(await newUser(controlPlane, `eve-${provider}@elsewhere.test`));
    expect(await errorOf(await link(eve, user, provider))).toMatchObject({
      code: 'already_exists',
    });
    const [identity] = await ada.json<rest.Identity[]>('GET', '/v1/me/identities');
    expect((await eve.delete(`/v1/me/identities/${identity?.id}`)).status).toBe(404);
    expect((await browser.delete(`/v1/me/identities/${identity?.id}`)).status).toBe(204);
    const refused = await new Browser().logIn(user, provider);
    expect(refused.status).toBe(403);
  });

  test('cannot replay a code', async () => {
    const user = { subject: newSubject(), email: `replay${subjects}@acme.test` };
    const browser = new Browser();
    const standIn = provider === 'oidc' ? oidc : github;
    const callback = standIn.authorize(await browser.begin(provider), user);
    expect((await browser.return(callback)).status).toBe(303);
    expect((await browser.return(callback)).status).toBe(403);
    // Nor with a state that is valid.
    const next = await browser.begin(provider);
    callback.searchParams.set('state', next.searchParams.get('state') ?? '');
    expect(await errorOf(await browser.return(callback))).toMatchObject({ code: 'forbidden' });
  });
});

function loggedIn(person: Person): Browser {
  const browser = new Browser();
  browser.cookies.set('__Host-torpor_session', person.token);
  return browser;
}

async function link(browser: Browser, user: StandInUser, provider: 'oidc' | 'github') {
  const response = await browser.post('/v1/me/identities', { provider });
  const url = new URL(((await response.json()) as rest.ProviderUrl).url);
  return browser.return((provider === 'oidc' ? oidc : github).authorize(url, user));
}

describe('the response of a provider', () => {
  const past = Math.floor(Date.now() / 1000) - 3_600;
  test.each<[string, Forgery]>([
    ['of another login (nonce)', { claims: { nonce: 'other' } }],
    ['without a nonce', { claims: { nonce: undefined } }],
    ['for another client', { claims: { aud: 'other' } }],
    ['of another issuer', { claims: { iss: 'https://evil.test' } }],
    ['that has expired', { claims: { iat: past, exp: past + 60 } }],
    ['without a signature', { signature: 'none' }],
    ['that another key has signed', { signature: 'foreign' }],
  ])('%s is refused', async (_, forgery) => {
    oidc.forgery = forgery;
    try {
      const browser = new Browser();
      const user = { subject: newSubject(), email: `f${subjects}@acme.test` };
      const error = await errorOf(await browser.logIn(user));
      expect(error).toMatchObject({ status: 403, code: 'forbidden' });
      expect(await browser.me()).toBeUndefined();
    } finally {
      oidc.forgery = {};
    }
  });

  test('may be of a clock that is a little off', async () => {
    const now = Math.floor(Date.now() / 1000);
    oidc.forgery = { claims: { iat: now - 80, exp: now - 15 } };
    const user = { subject: newSubject(), email: `clock${subjects}@acme.test` };
    expect((await new Browser().logIn(user)).status).toBe(303);
    oidc.forgery = {};
  });

  test('counts only in the browser that began the login, and only with its state', async () => {
    const victim = new Browser();
    const attacker = new Browser();
    const user = { subject: newSubject(), email: `csrf${subjects}@acme.test` };
    const callback = oidc.authorize(await attacker.begin(), user);
    await victim.begin();
    expect((await victim.return(callback)).status).toBe(403);
    expect((await new Browser().return(callback)).status).toBe(403);
    const forged = new URL(callback);
    forged.searchParams.set('state', 'forged');
    expect((await attacker.return(forged)).status).toBe(403);
    // None of it has used up the login of the browser that began it, on whichever control plane.
    attacker.server = other;
    expect((await attacker.return(callback)).status).toBe(303);
  });

  test('is of the provider to which the browser was sent', async () => {
    const browser = new Browser();
    const callback = oidc.authorize(await browser.begin('oidc'), { subject: newSubject() });
    callback.pathname = callback.pathname.replace('oidc', 'github');
    expect((await browser.return(callback)).status).toBe(403);
  });

  test('that the user declined is an error, for people as a page', async () => {
    const browser = new Browser();
    const url = await browser.begin();
    const callback = new URL(url.searchParams.get('redirect_uri') ?? '');
    callback.searchParams.set('state', url.searchParams.get('state') ?? '');
    callback.searchParams.set('error', 'access_denied');
    callback.searchParams.set('error_description', '<script>alert(1)</script>');
    const response = await browser.get(`${callback.pathname}${callback.search}`, {
      accept: 'text/html',
    });
    expect(response.status).toBe(403);
    expect(response.headers.get('content-security-policy')).toContain("default-src 'none'");
    const page = await response.text();
    expect(page).toContain('did not confirm who you are');
    expect(page).not.toContain('alert');
  });

  test('that does not come ends the login after a while', { timeout: 60_000 }, async () => {
    const browser = new Browser();
    const callback = oidc.authorize(await browser.begin(), { subject: newSubject() });
    oidc.isHanging = true;
    const error = await errorOf(await browser.return(callback));
    oidc.isHanging = false;
    expect(error).toMatchObject({ status: 502, code: 'provider_unavailable' });
  });
});

describe('who may make an account', () => {
  const stranger = () => ({ subject: newSubject(), email: `s${subjects}@elsewhere.test` });

  test('others only by invitation, or where everyone may', async () => {
    const error = await errorOf(await new Browser().logIn(stranger()));
    expect(error).toMatchObject({ status: 403, message: expect.stringContaining('invited') });
    const suffix = { subject: newSubject(), email: 'x@evil-acme.test' };
    expect((await new Browser().logIn(suffix)).status).toBe(403);
    expect((await new Browser(open).logIn(stranger())).status).toBe(303);
  });

  test('an invitation is for the address that the provider has verified', async () => {
    const admin = await newUser(controlPlane, 'admin@elsewhere.test');
    const team = await admin.json<rest.Team>('POST', '/v1/teams', { name: 'Team' });
    const guest = stranger();
    const path = `/v1/teams/${team.id}/invitations`;
    const { link: address } = await admin.json<rest.CreatedInvitation>('POST', path, {
      email: guest.email,
    });
    const invitation = address.split('#')[1];
    const thief = await new Browser().logIn(stranger(), 'oidc', { invitation });
    expect(await errorOf(thief)).toMatchObject({ code: 'forbidden' });
    const browser = new Browser();
    expect((await browser.logIn(guest, 'oidc', { invitation })).status).toBe(303);
    expect((await browser.me())?.team).toMatchObject({ id: team.id, role: 'member' });
  });

  test('an account that an operator made, and that nobody has used, is of the owner of its address', async () => {
    const make = async (body: object) => {
      const key = { 'x-api-key': controlPlane.apiKey };
      const response = await request(controlPlane, 'POST', '/v1/users', body, key);
      return (await response.json()) as rest.CreatedUser;
    };
    const made = await make({ email: 'made@elsewhere.test' });
    const browser = new Browser();
    const owner = { subject: newSubject(), email: made.email };
    expect((await browser.logIn(owner)).status).toBe(303);
    expect((await browser.me())?.user?.id).toBe(made.id);
    const token = made.link.split('#')[1];
    const body = { token, new_password: 'another password' };
    const set = await request(controlPlane, 'POST', '/v1/auth/password', body);
    expect(set.status).toBe(404);
    // Neither of a second one, nor of an operator.
    const second = { subject: newSubject(), email: made.email };
    expect((await new Browser().logIn(second, 'github')).status).toBe(409);
    const operator = await make({ email: 'root@elsewhere.test', is_admin: true });
    const taker = { subject: newSubject(), email: operator.email };
    expect((await new Browser().logIn(taker)).status).toBe(409);
    // It cannot lose its only login.
    const list = await browser.get('/v1/me/identities', { 'sec-fetch-site': 'same-origin' });
    const [identity] = (await list.json()) as rest.Identity[];
    expect((await browser.delete(`/v1/me/identities/${identity?.id}`)).status).toBe(409);
    // Nor be used once it is disabled.
    const key = { 'x-api-key': controlPlane.apiKey };
    await request(controlPlane, 'PATCH', `/v1/users/${made.id}`, { status: 'disabled' }, key);
    expect((await new Browser().logIn(owner)).status).toBe(403);
  });
});

test.each([
  'https://evil.test',
  '//evil.test',
  '/\\evil.test',
  'javascript:alert(1)',
  '/a\nb',
  'x',
])('a browser is not sent to %j', async (returnTo) => {
  const browser = new Browser();
  const posted = await browser.post('/v1/auth/oauth/oidc/start', { return_to: returnTo });
  expect(posted.status).toBe(400);
  const path = `/v1/auth/oauth/oidc/start?return_to=${encodeURIComponent(returnTo)}`;
  expect((await browser.get(path)).status).toBe(400);
  const page = await browser.get(`/login?return_to=${encodeURIComponent(returnTo)}`);
  expect(await page.text()).not.toContain('evil');
});

test('other sites can neither begin a login nor a link', async () => {
  const ada = await newUser(controlPlane, 'site@elsewhere.test');
  const cookie = `__Host-torpor_session=${ada.token}`;
  const headers = { origin: 'https://evil.test', cookie };
  for (const [path, body] of [
    ['/v1/auth/oauth/oidc/start', {}],
    ['/v1/me/identities', { provider: 'oidc' }],
    ['/v1/auth/device', {}],
  ] as const) {
    expect((await request(controlPlane, 'POST', path, body, headers)).status, path).toBe(403);
  }
});

test('the ways to log in are listed, without secrets', async () => {
  const response = await request(controlPlane, 'GET', '/v1/auth/providers');
  expect(await response.json()).toEqual({
    providers: [
      { id: 'github', name: 'GitHub' },
      { id: 'oidc', name: 'Acme' },
    ],
    sign_up: false,
    password_reset: false,
  });
  expect(fleet.log()).not.toContain(CLIENT_SECRET);
  const unknown = await request(controlPlane, 'POST', '/v1/auth/oauth/google/start', {});
  expect(unknown.status).toBe(404);
});
