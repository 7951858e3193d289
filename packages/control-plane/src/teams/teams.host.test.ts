import { PERMISSION_NAMES, type rest } from '@torpor/protocol';
import {
  errorOf,
  type Harness,
  invited,
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

const TEAMS_PER_USER = 4;

let harness: Harness;
let server: Server;
let owner: Person;
let admin: Person;
let member: Person;
/** In a team of its own. */
let other: Person;
let teamId: string;

beforeAll(async () => {
  // Any number of users sign up from this machine.
  harness = await startHarness({
    signUpOpen: true,
    teamsPerUser: TEAMS_PER_USER,
    agents: { host: '127.0.0.1', port: 0 },
  });
  server = harness.controlPlane;
  owner = await newUser(server, 'owner@example.com', true);
  [{ id: teamId = '' } = {}] = await owner.json<Partial<rest.Team>[]>('GET', '/v1/teams');
  admin = await invited(owner, teamId, 'admin', 'admin@example.com');
  member = await invited(admin, teamId, 'member', 'member@example.com');
  other = await signUp('other@example.com');
});
afterAll(() => harness[Symbol.asyncDispose]());

async function signUp(email: string): Promise<Person> {
  const body = { email, name: 'Other', password: PASSWORD, mode: 'token' };
  const response = await request(server, 'POST', '/v1/auth/signup', body);
  expect(response.status).toBe(201);
  return logIn(server, email);
}

const invite = (by: Person, body: object = {}) =>
  by.json<rest.CreatedInvitation>('POST', `/v1/teams/${teamId}/invitations`, body);
const accept = (person: Person, token: string) =>
  person.call('POST', '/v1/invitations/accept', { token });
const path = (suffix = '') => `/v1/teams/${teamId}${suffix}`;

describe('who may do what', () => {
  /** A request, and the status that each gets: owner, admin, member, another team's owner. */
  const MATRIX: [string, () => string, object | undefined, [number, number, number, number]][] = [
    ['GET', () => '/v1/me', undefined, [200, 200, 200, 200]],
    ['GET', () => '/v1/teams', undefined, [200, 200, 200, 200]],
    ['GET', () => path(), undefined, [200, 200, 200, 404]],
    ['GET', () => path('/members'), undefined, [200, 200, 200, 404]],
    ['GET', () => path('/invitations'), undefined, [200, 200, 200, 404]],
    ['PATCH', () => path(), { name: 'Default' }, [200, 200, 403, 404]],
    ['POST', () => path('/invitations'), {}, [201, 201, 403, 404]],
    ['DELETE', () => path('/invitations/inv0'), undefined, [404, 404, 403, 404]],
    ['PATCH', () => path('/members/us0'), { role: 'member' }, [404, 404, 403, 404]],
    ['PATCH', () => path(`/members/${member.id}`), { role: 'member' }, [204, 204, 403, 404]],
    ['PATCH', () => path(`/members/${owner.id}`), { role: 'member' }, [409, 409, 403, 404]],
    ['PATCH', () => path('/members/us0'), { role: 'owner' }, [404, 403, 403, 404]],
    ['DELETE', () => path('/members/us0'), undefined, [404, 404, 403, 404]],
    ['DELETE', () => path(`/members/${owner.id}`), undefined, [409, 409, 403, 404]],
    // The key of the server is of this team.
    ['DELETE', () => path(), undefined, [409, 403, 403, 404]],
    ['GET', () => '/v1/api-keys', undefined, [200, 200, 403, 200]],
    ['POST', () => '/v1/api-keys', { name: 'k' }, [201, 201, 403, 201]],
    ['GET', () => '/v1/webhooks', undefined, [200, 200, 403, 200]],
    ['GET', () => '/v1/hosts', undefined, [200, 200, 403, 200]],
    ['GET', () => '/v1/sandboxes', undefined, [200, 200, 200, 200]],
    ['GET', () => '/v1/usage', undefined, [200, 200, 200, 200]],
    ['GET', () => '/v1/audit-logs', undefined, [200, 200, 200, 200]],
    ['GET', () => '/v1/users', undefined, [200, 403, 403, 403]],
    ['GET', () => '/v1/builds?verify=true', undefined, [200, 403, 403, 403]],
    [
      'POST',
      () => '/v1/auth/switch-team',
      { team_id: 'tm00000000000000000000' },
      [204, 404, 404, 404],
    ],
  ];

  test.each(MATRIX)('%s %s', async (method, at, body, expected) => {
    const url = at();
    const statuses: number[] = [];
    for (const person of [owner, admin, member, other]) {
      const response = await person.call(method, url, body);
      statuses.push(response.status);
      if (url === '/v1/auth/switch-team' && response.ok) {
        await person.call('POST', '/v1/auth/switch-team', { team_id: teamId });
      }
    }
    expect(statuses).toEqual(expected);
    const stranger = await request(server, method, url, body);
    expect(stranger.status).toBe(401);
    const local = await harness.request(url, { method: 'GET' });
    expect([200, 404, 405]).toContain(local.status);
  });

  test('what another team has is not found', async () => {
    const sandbox = await harness.create();
    for (const [person, status] of [
      [member, 200],
      [other, 404],
    ] as const) {
      expect((await person.call('GET', `/v1/sandboxes/${sandbox.id}`)).status).toBe(status);
    }
    const here = { 'x-team-id': teamId };
    const url = `/v1/sandboxes/${sandbox.id}`;
    expect((await other.call('GET', url, undefined, here)).status).toBe(404);
    expect((await other.call('GET', '/v1/sandboxes', undefined, here)).status).toBe(404);
    const local = { 'x-api-key': server.apiKey, 'x-team-id': 'tm00000000000000000000' };
    expect((await request(server, 'GET', '/v1/sandboxes', undefined, local)).status).toBe(404);
  });
});

describe('an invitation', () => {
  test('makes an account in the team, with its role', async () => {
    const me = await member.json<rest.Caller>('GET', '/v1/me');
    expect(me).toMatchObject({ team: { id: teamId, role: 'member' }, user: { is_admin: false } });
    expect(me.permissions).not.toContain('keys.read');
    const { permissions } = await admin.json<rest.Caller>('GET', '/v1/me');
    expect(PERMISSION_NAMES.filter((name) => !permissions.includes(name))).toEqual([
      'team.delete',
      'platform',
    ]);
  });

  test('says what it is for to whoever has it, and is listed without its token', async () => {
    const invitation = await invite(admin, { role: 'admin', email: 'Dora@Example.com' });
    const token = tokenOf(invitation);
    const preview = await request(server, 'POST', '/v1/invitations/preview', { token });
    expect(await preview.json()).toEqual({
      team_name: 'Default',
      role: 'admin',
      email: 'dora@example.com',
      expires_at: invitation.expires_at,
    });
    const listed = await (await member.call('GET', path('/invitations'))).text();
    expect(listed).toContain(invitation.id);
    expect(listed).not.toContain('tpi_');
    await until(() => harness.log().length > 0);
    expect(harness.log()).not.toContain(token);
  });

  test('for one email address is accepted by no other account', async () => {
    const token = tokenOf(await invite(owner, { email: 'somebody@example.com' }));
    expect(await errorOf(await accept(other, token))).toMatchObject({ status: 403 });
    const body = { email: 'wrong@example.com', name: 'W', password: PASSWORD, invitation: token };
    expect((await request(server, 'POST', '/v1/auth/signup', body)).status).toBe(403);
    const right = { ...body, email: 'Somebody@example.com' };
    expect((await request(server, 'POST', '/v1/auth/signup', right)).status).toBe(201);
  });

  test('is used up by one of several who accept it at once, whatever way they do', async () => {
    const token = tokenOf(await invite(owner));
    const people = [await signUp('race1@example.com'), await signUp('race2@example.com')];
    const body = { email: 'race3@example.com', name: 'R', password: PASSWORD, invitation: token };
    const statuses = await Promise.all([
      ...people.map((person) => accept(person, token)),
      request(server, 'POST', '/v1/auth/signup', body),
    ]).then((responses) => responses.map(({ status }) => status));
    expect(statuses.filter((status) => status < 300)).toHaveLength(1);
    expect(statuses.filter((status) => status === 404)).toHaveLength(2);
    const members = await owner.json<rest.Member[]>('GET', path('/members'));
    expect(members.filter(({ email }) => email.startsWith('race'))).toHaveLength(1);
  });

  test('that is revoked or has expired is not found, and one that is refused is not used up', async () => {
    const revoked = await invite(owner);
    await owner.call('DELETE', path(`/invitations/${revoked.id}`));
    expect((await accept(other, tokenOf(revoked))).status).toBe(404);
    const unused = tokenOf(await invite(owner));
    expect((await accept(member, unused)).status).toBe(409);
    const taken = { email: member.email, name: 'M', password: PASSWORD, invitation: unused };
    expect((await request(server, 'POST', '/v1/auth/signup', taken)).status).toBe(409);
    const preview = await request(server, 'POST', '/v1/invitations/preview', { token: unused });
    expect(preview.status).toBe(200);
  });

  test('ends with the rights of the admin who made it, also by a key', async () => {
    const leaving = await invited(owner, teamId, 'admin', 'leaving@example.com');
    const { key } = await leaving.json<rest.CreatedApiKey>('POST', '/v1/api-keys', {
      name: 'inviter',
      scopes: ['team.write'],
    });
    const byKey = await request(server, 'POST', path('/invitations'), {}, { 'x-api-key': key });
    const tokens = [
      tokenOf(await invite(leaving)),
      tokenOf((await byKey.json()) as rest.CreatedInvitation),
    ];
    await owner.call('PATCH', path(`/members/${leaving.id}`), { role: 'member' });
    for (const token of tokens) expect((await accept(other, token)).status).toBe(404);
  });
});

describe('a member who is removed', () => {
  test('loses access, and the keys made with it, at once', async () => {
    const person = await invited(owner, teamId, 'admin', 'removed@example.com');
    const scopes = ['sandboxes.read', 'keys.write'];
    const first = await person.json<rest.CreatedApiKey>('POST', '/v1/api-keys', {
      name: 'a',
      scopes,
    });
    const made = await request(
      server,
      'POST',
      '/v1/api-keys',
      { name: 'b', scopes },
      { 'x-api-key': first.key },
    );
    const second = (await made.json()) as rest.CreatedApiKey;
    const withKey = async ({ key }: rest.CreatedApiKey) =>
      (await request(server, 'GET', '/v1/sandboxes', undefined, { 'x-api-key': key })).status;
    expect([await withKey(first), await withKey(second)]).toEqual([200, 200]);
    // That it was made with a key does not depend on that key.
    const third = await person.json<rest.CreatedApiKey>('POST', '/v1/api-keys', {
      name: 'c',
      scopes,
    });
    const byThird = await request(
      server,
      'POST',
      '/v1/api-keys',
      { name: 'd', scopes },
      { 'x-api-key': third.key },
    );
    const fourth = (await byThird.json()) as rest.CreatedApiKey;
    await person.call('DELETE', `/v1/api-keys/${third.id}`);
    expect(await withKey(fourth)).toBe(200);
    expect((await person.call('GET', '/v1/sandboxes')).status).toBe(200);
    expect((await owner.call('DELETE', path(`/members/${person.id}`))).status).toBe(204);
    expect([await withKey(first), await withKey(second)]).toEqual([401, 401]);
    expect(await withKey(fourth)).toBe(401);
    expect(await errorOf(await person.call('GET', '/v1/sandboxes'))).toMatchObject({
      status: 403,
      message: expect.stringContaining('no team'),
    });
    expect((await person.call('GET', path('/members'))).status).toBe(404);
    expect(await person.json('GET', '/v1/me')).not.toHaveProperty('team');
    expect(await person.json('GET', '/v1/teams')).toEqual([]);
    // An account without a team can have one again.
    expect((await accept(person, tokenOf(await invite(owner)))).status).toBe(200);
    expect((await person.call('GET', '/v1/sandboxes')).status).toBe(200);
  });

  test('has no key left, whenever it was made', async () => {
    const person = await invited(owner, teamId, 'admin', 'quick@example.com');
    const make = () => person.call('POST', '/v1/api-keys', { name: 'late' });
    const made = await Promise.all([
      make(),
      make(),
      owner.call('DELETE', path(`/members/${person.id}`)),
      make(),
      make(),
    ]);
    expect(made[2]?.status).toBe(204);
    for (const response of made.filter(({ status }) => status === 201)) {
      const { key } = (await response.json()) as rest.CreatedApiKey;
      const list = await request(server, 'GET', '/v1/sandboxes', undefined, { 'x-api-key': key });
      expect(list.status).toBe(401);
    }
    const keys = await owner.json<rest.ApiKey[]>('GET', '/v1/api-keys');
    expect(keys.filter(({ created_by }) => created_by === person.id)).toEqual([]);
  });

  test('a lower role takes what keys may do beyond it', async () => {
    const person = await invited(owner, teamId, 'admin', 'lower@example.com');
    const keyWith = (scopes: string[]) =>
      person.json<rest.CreatedApiKey>('POST', '/v1/api-keys', { name: scopes.join(), scopes });
    const kept = await keyWith(['sandboxes.read']);
    const lost = await keyWith(['sandboxes.read', 'webhooks.read']);
    await owner.call('PATCH', path(`/members/${person.id}`), { role: 'member' });
    const withKey = async ({ key }: rest.CreatedApiKey) =>
      (await request(server, 'GET', '/v1/sandboxes', undefined, { 'x-api-key': key })).status;
    expect([await withKey(kept), await withKey(lost)]).toEqual([200, 401]);
    expect((await person.call('GET', '/v1/webhooks')).status).toBe(403);
  });
});

describe('a team', () => {
  test('has one owner at any time', async () => {
    const team = await other.json<rest.Team>('POST', '/v1/teams', { name: 'Second' });
    const heirs = [
      await invited(other, team.id, 'admin', 'heir1@example.com'),
      await invited(other, team.id, 'member', 'heir2@example.com'),
    ];
    const leave = (person: Person) => person.call('POST', `/v1/teams/${team.id}/leave`);
    expect((await leave(other)).status).toBe(409);
    const give = (to: Person) =>
      other.call('PATCH', `/v1/teams/${team.id}/members/${to.id}`, { role: 'owner' });
    const statuses = (await Promise.all(heirs.map(give))).map(({ status }) => status);
    expect(statuses.toSorted()).toEqual([204, 403]);
    const members = await other.json<rest.Member[]>('GET', `/v1/teams/${team.id}/members`);
    expect(members.map(({ role }) => role).toSorted()).toEqual(
      statuses[0] === 204 ? ['admin', 'member', 'owner'] : ['admin', 'admin', 'owner'],
    );
    expect((await leave(other)).status).toBe(204);
  });

  test('is one of as many as its owner may have, made or given, unless that is an operator', async () => {
    const keen = await signUp('keen@example.com');
    const make = (by: Person) => by.call('POST', '/v1/teams', { name: 'More' });
    const made = await Promise.all(Array.from({ length: 2 * TEAMS_PER_USER }, () => make(keen)));
    const statuses = made.map(({ status }) => status).toSorted();
    // The first one came with the account.
    expect(statuses.filter((status) => status === 201)).toHaveLength(TEAMS_PER_USER - 1);
    const refused = made.find(({ status }) => status !== 201) ?? (await make(keen));
    expect(await errorOf(refused)).toMatchObject({ status: 403, code: 'quota_exceeded' });
    const giver = await signUp('giver@example.com');
    const [{ id = '' } = {}] = await giver.json<Partial<rest.Team>[]>('GET', '/v1/teams');
    const invitation = await giver.json<rest.CreatedInvitation>(
      'POST',
      `/v1/teams/${id}/invitations`,
      {},
    );
    const token = tokenOf(invitation);
    expect((await accept(keen, token)).status).toBe(200);
    const give = await giver.call('PATCH', `/v1/teams/${id}/members/${keen.id}`, { role: 'owner' });
    expect(await errorOf(give)).toMatchObject({ code: 'quota_exceeded' });
    for (let team = 0; team < TEAMS_PER_USER; team++) expect((await make(owner)).status).toBe(201);
    const all = await keen.json<rest.Team[]>('GET', '/v1/teams');
    const spare = all.find(({ name, role }) => name === 'More' && role === 'owner');
    expect((await keen.call('DELETE', `/v1/teams/${spare?.id}`)).status).toBe(204);
    expect((await make(keen)).status).toBe(201);
  });

  test('is the one of a session, of a header, or of the path', async () => {
    const team = await other.json<rest.Team>('POST', '/v1/teams', { name: 'Third' });
    const current = async (headers: Record<string, string> = {}) => {
      const response = await other.call('GET', '/v1/me', undefined, headers);
      return ((await response.json()) as rest.Caller).team?.name;
    };
    expect(await current()).toBe("Other's team");
    expect(await current({ 'x-team-id': team.id })).toBe('Third');
    const switched = await other.call('POST', '/v1/auth/switch-team', { team_id: team.id });
    expect(switched.status).toBe(204);
    expect(await current()).toBe('Third');
    const sandbox = await other.json<rest.Sandbox>('POST', '/v1/sandboxes', {});
    const remove = () => other.call('DELETE', `/v1/teams/${team.id}`);
    expect(await errorOf(await remove())).toMatchObject({
      status: 409,
      message: expect.stringContaining('sandboxes (1)'),
    });
    await other.call('DELETE', `/v1/sandboxes/${sandbox.id}`);
    const hostRequest = { name: 'mine', type: 'team' };
    const { host } = await other.json<rest.CreatedHost>('POST', '/v1/hosts', hostRequest);
    expect(await errorOf(await remove())).toMatchObject({
      status: 409,
      message: expect.stringContaining('hosts (1)'),
    });
    expect((await other.call('DELETE', `/v1/hosts/${host.id}`)).status).toBe(204);
    expect((await remove()).status).toBe(204);
    expect((await other.call('GET', '/v1/sandboxes')).status).toBe(403);
    const teams = await other.json<rest.Team[]>('GET', '/v1/teams');
    expect(teams.map(({ name }) => name)).not.toContain('Third');
    await other.call('POST', '/v1/auth/switch-team', { team_id: teams[0]?.id });
    expect((await other.call('GET', '/v1/sandboxes')).status).toBe(200);
  });
});

test('the first user owns the team of the server, and two at once do not both', async () => {
  const fresh = await startHarness();
  try {
    const { apiKey } = fresh.controlPlane;
    const made = await Promise.all(
      ['one@example.com', 'two@example.com', 'one@example.com'].map((email) =>
        request(
          fresh.controlPlane,
          'POST',
          '/v1/users',
          { email, is_admin: true },
          { 'x-api-key': apiKey },
        ),
      ),
    );
    expect(made.map(({ status }) => status).toSorted()).toEqual([201, 201, 409]);
    const { team } = (await (await fresh.request('/v1/me')).json()) as rest.Caller;
    const members = await fresh.request(`/v1/teams/${team?.id}/members`);
    expect(await members.json()).toMatchObject([{ role: 'owner' }]);
  } finally {
    await fresh[Symbol.asyncDispose]();
  }
});

test('operators read the audit logs of all teams, and nobody else does', async () => {
  const query = '/v1/audit-logs?all_teams=true&action=create&resource_type=team';
  const teams = await other.json<rest.Team[]>('GET', '/v1/teams');
  await until(async () => {
    const { items } = await owner.json<rest.AuditPage>('GET', query);
    const found = new Set(items.map(({ team_id }) => team_id));
    return teams.every(({ id }) => found.has(id));
  });
  for (const person of [admin, member, other]) {
    expect(await errorOf(await person.call('GET', query))).toMatchObject({ code: 'forbidden' });
  }
});

test('members see what happens to sandboxes, and admins also what happens to the team', async () => {
  const sandbox = await member.json<rest.Sandbox>('POST', '/v1/sandboxes', {});
  const entries = async (person: Person, query = '') =>
    (await person.json<rest.AuditPage>('GET', `/v1/audit-logs?limit=200${query}`)).items;
  await until(async () => (await entries(member, `&resource_id=${sandbox.id}`)).length === 1);
  expect(await entries(member, `&resource_id=${sandbox.id}`)).toMatchObject([
    { action: 'create', actor_type: 'user', actor_id: member.id, scope: 'team' },
  ]);
  expect((await entries(member)).filter(({ scope }) => scope === 'admin')).toEqual([]);
  expect(await entries(member, '&scope=admin')).toEqual([]);
  const kinds = new Set((await entries(admin)).map((e) => `${e.resource_type}.${e.action}`));
  for (const kind of [
    'member.add',
    'invitation.create',
    'user.create',
    'member.remove',
    'api_key.revoke',
  ]) {
    expect(kinds, kind).toContain(kind);
  }
  const events = async (person: Person) =>
    (await (await person.call('GET', '/v1/events?after=0&follow=false')).text()).match(
      /^event: .*/gm,
    );
  expect(new Set(await events(member))).toEqual(
    new Set((await events(admin))?.filter((line) => /^event: (?:sandbox|snapshot)\./.test(line))),
  );
  expect(await events(admin)).toContain('event: member.add');
});
