import type { rest } from '@torpor/protocol';
import {
  Fleet,
  invited,
  type Member,
  MemoryHost,
  newUser,
  type Person,
  request,
  type Server,
  tokenOf,
} from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

let fleet: Fleet;
let member: Member;
let server: Server;
let owner: Person;
let teamId: string;
beforeAll(async () => {
  fleet = await Fleet.open();
  member = await fleet.joinAlone();
  server = member.controlPlane;
  owner = await newUser(server, 'owner@example.com', true);
  [{ id: teamId = '' } = {}] = await owner.json<Partial<rest.Team>[]>('GET', '/v1/teams');
});
afterAll(() => fleet[Symbol.asyncDispose]());

let made = 0;
const nameOf = () => `made-${made++}`;

/** What an admin has made that others could go on using. */
async function makeThings(call: Person['call']) {
  const json = async <T>(path: string, body: object) => {
    const response = await call('POST', path, body);
    expect(response.status, await response.clone().text()).toBe(201);
    return (await response.json()) as T;
  };
  return {
    key: await json<rest.CreatedApiKey>('/v1/api-keys', {
      name: nameOf(),
      scopes: ['hosts.read'],
    }),
    invitation: await json<rest.CreatedInvitation>(`/v1/teams/${teamId}/invitations`, {}),
    host: await json<rest.CreatedHost>('/v1/hosts', { name: nameOf(), type: 'team' }),
    webhook: await json<rest.CreatedWebhook>('/v1/webhooks', {
      name: nameOf(),
      url: 'https://example.com/',
      event_types: ['sandbox.*'],
    }),
  };
}

type Things = Awaited<ReturnType<typeof makeThings>>;

/** What of it can still be used. */
async function usable({ key, invitation, host, webhook }: Things) {
  const asKey = await request(server, 'GET', '/v1/me', undefined, { 'x-api-key': key.key });
  const preview = await request(server, 'POST', '/v1/invitations/preview', {
    token: tokenOf(invitation),
  });
  const shown = await owner.json<rest.Webhook>('GET', `/v1/webhooks/${webhook.id}`);
  await using machine = await MemoryHost.make();
  const joined = await machine.start(host).then(
    () => true,
    () => false,
  );
  return {
    key: asKey.status === 200,
    invitation: preview.status === 200,
    host: joined,
    webhook: shown.enabled,
  };
}

const path = (suffix: string) => `/v1/teams/${teamId}${suffix}`;
const ALL = { key: true, invitation: true, host: true, webhook: true };
const NOTHING = { key: false, invitation: false, host: false, webhook: false };

const LOSSES: [string, (admin: Person) => Promise<Response>][] = [
  ['who is removed', ({ id }) => owner.call('DELETE', path(`/members/${id}`))],
  ['who leaves', (admin) => admin.call('POST', path('/leave'))],
  [
    'who becomes a member',
    ({ id }) => owner.call('PATCH', path(`/members/${id}`), { role: 'member' }),
  ],
  ['who is disabled', ({ id }) => owner.call('PATCH', `/v1/users/${id}`, { status: 'disabled' })],
  [
    'who deletes the account',
    (admin) => admin.call('DELETE', '/v1/me', { confirmation: admin.email }),
  ],
];

describe.each(LOSSES)('of an admin %s', (how, lose) => {
  test('nothing can be used that was made, also with a key; what others made can', async () => {
    const name = how.replaceAll(' ', '-');
    const admin = await invited(owner, teamId, 'admin', `${name}@example.com`);
    const scopes = [
      ...['keys.write', 'hosts.read', 'hosts.write', 'team.read', 'team.write', 'webhooks.write'],
    ];
    const { key } = await admin.json<rest.CreatedApiKey>('POST', '/v1/api-keys', {
      name: nameOf(),
      scopes,
    });
    const own = await makeThings((...args) => admin.call(...args));
    const byKey = await makeThings((method, url, body) =>
      request(server, method, url, body, { 'x-api-key': key }),
    );
    const others = await makeThings((...args) => owner.call(...args));
    const events = (await fleet.events()).length;
    expect((await lose(admin)).ok).toBe(true);
    const recorded = (await fleet.events()).slice(events);
    expect(await usable(own)).toEqual(NOTHING);
    expect(await usable(byKey)).toEqual(NOTHING);
    expect(await usable(others)).toEqual(ALL);
    for (const { invitation, host, webhook, key: lost } of [own, byKey]) {
      for (const id of [invitation.id, host.host.id, webhook.id, lost.id]) {
        expect(recorded).toContainEqual(
          expect.objectContaining({
            resource: id,
            metadata: expect.objectContaining({ reason: expect.stringContaining('lost') }),
          }),
        );
      }
    }
  });
});

test('a webhook is enabled again by another admin, who answers for it from then on', async () => {
  const [first, second] = [
    await invited(owner, teamId, 'admin', 'first@example.com'),
    await invited(owner, teamId, 'admin', 'second@example.com'),
  ];
  const { webhook } = await makeThings((...args) => first.call(...args));
  await owner.call('DELETE', path(`/members/${first.id}`));
  const at = `/v1/webhooks/${webhook.id}`;
  await second.call('PATCH', at, { enabled: true });
  await owner.call('PATCH', `/v1/users/${first.id}`, { status: 'disabled' });
  expect(await owner.json('GET', at)).toMatchObject({ enabled: true });
  await owner.call('DELETE', path(`/members/${second.id}`));
  expect(await owner.json('GET', at)).toMatchObject({ enabled: false });
});

test('an operator who is one no more loses the tokens of hosts of the platform only', async () => {
  const operator = await newUser(server, 'operator@example.com', true);
  const [{ id = '' } = {}] = await operator.json<Partial<rest.Team>[]>('GET', '/v1/teams');
  const host = (type: string) =>
    operator.json<rest.CreatedHost>('POST', '/v1/hosts', { name: nameOf(), type });
  const hosts = [await host('regular'), await host('team')];
  expect(id).not.toBe(teamId);
  await owner.call('PATCH', `/v1/users/${operator.id}`, { is_admin: false });
  const results: boolean[] = [];
  for (const created of hosts) {
    await using machine = await MemoryHost.make();
    results.push(
      await machine
        .start(created)
        .then(() => true)
        .catch(() => false),
    );
  }
  expect(results).toEqual([false, true]);
});

test('what is made while its maker is removed does not outlive that', async () => {
  const admin = await invited(owner, teamId, 'admin', 'quick@example.com');
  const make = () => [
    admin.call('POST', '/v1/hosts', { name: nameOf(), type: 'team' }),
    admin.call('POST', '/v1/webhooks', {
      name: nameOf(),
      url: 'https://example.com/',
      event_types: ['host.*'],
    }),
  ];
  await Promise.all([...make(), owner.call('DELETE', path(`/members/${admin.id}`)), ...make()]);
  expect(await fleet.count(`host_tokens where user_id = '${admin.id}'`)).toBe(0);
  expect(await fleet.count(`webhooks where user_id = '${admin.id}' and enabled`)).toBe(0);
});
