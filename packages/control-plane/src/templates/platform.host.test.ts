/** Templates of the platform: what every team may do with them, and whose a name is. */
import { createHash } from 'node:crypto';
import {
  newApiKey,
  newId,
  PERMISSION_NAMES,
  QUOTA_NAMES,
  type rest,
  TorporError,
} from '@torpor/protocol';
import { Torpor } from '@torpor/sdk';
import { errorOf, Fleet, type Member, newUser, until } from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { PLATFORM_TEAM_ID } from '../auth/roles.ts';

let fleet: Fleet;
let member: Member;
let platform: Team;
let team: Team;

beforeAll(async () => {
  fleet = await Fleet.open();
  fleet.agent.limits.memoryMb = 1_000_000;
  member = await fleet.join();
  platform = await teamOf(PLATFORM_TEAM_ID);
  team = await newTeam();
});
afterAll(() => fleet[Symbol.asyncDispose]());
beforeEach(async () => {
  fleet.agent.builds.reset();
  for (const one of [team, platform]) {
    const own = await fleet.database.query(
      `select name from templates where team_id = $1 and state = 'ready'`,
      [one.id],
    );
    for (const { name } of own.rows) await one.call('DELETE', `/v1/templates/${name}`);
  }
});

/** A team, through a key with every permission. */
class Team {
  readonly id: string;
  readonly key: string;
  readonly #member: Member;

  constructor(of: Member, id: string, key: string) {
    this.#member = of;
    this.id = id;
    this.key = key;
  }

  call(method: string, path: string, body?: object): Promise<Response> {
    return fetch(`${this.#member.controlPlane.url}${path}`, {
      method,
      headers: { 'x-api-key': this.key },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
  }

  async json<T>(method: string, path: string, body?: object): Promise<T> {
    const response = await this.call(method, path, body);
    if (!response.ok) throw new Error(`${method} ${path}: ${await response.text()}`);
    return (await response.json()) as T;
  }

  sandbox(body: object = {}): Promise<rest.Sandbox> {
    const shape = 'template' in body ? {} : { memory_mb: 128 };
    return this.json('POST', '/v1/sandboxes', { ...shape, ...body });
  }

  /** A snapshot of a new sandbox. */
  async snapshot(name: string, query = '', body: object = {}): Promise<Response> {
    const { id: sandbox_id } = await this.sandbox();
    return this.call('POST', `/v1/snapshots${query}`, { sandbox_id, name, ...body });
  }

  list(query = '?type=snapshot'): Promise<rest.Template[]> {
    return this.json('GET', `/v1/templates${query}`);
  }

  async quota(name: string): Promise<number | undefined> {
    const { items } = await this.json<rest.QuotaList>('GET', '/v1/quotas');
    return items.find((quota) => quota.name === name)?.used;
  }
}

async function keyOf(teamId: string): Promise<string> {
  const key = newApiKey();
  await fleet.database.query(
    `insert into api_keys (id, team_id, name, key_hash, key_prefix, scopes)
     values ($1, $2, 'test', $3, 'tpr_', $4)`,
    [newId('apiKey'), teamId, createHash('sha256').update(key).digest('hex'), PERMISSION_NAMES],
  );
  return key;
}

async function newTeam(): Promise<Team> {
  const id = newId('team');
  await fleet.database.query(`insert into teams (id, name) values ($1, 'Team')`, [id]);
  return teamOf(id);
}

/** Without limits. */
async function teamOf(id: string): Promise<Team> {
  await fleet.database.query(
    `insert into team_quotas (team_id, name, maximum) select $1, unnest($2::text[]), null`,
    [id, QUOTA_NAMES],
  );
  return new Team(member, id, await keyOf(id));
}

async function made(response: Response | Promise<Response>): Promise<rest.Snapshot> {
  const awaited = await response;
  if (awaited.status !== 201) throw new Error(await awaited.text());
  return (await awaited.json()) as rest.Snapshot;
}

describe('a snapshot of the team Platform', () => {
  test('is listed, described and used by every team', async () => {
    expect(await made(platform.snapshot('shared'))).toMatchObject({ platform: true });
    await made(team.snapshot('own'));
    const other = await newTeam();
    const listed = await team.list();
    expect(listed.map(({ name, platform: shared }) => [name, shared])).toEqual([
      ['own', false],
      ['shared', true],
    ]);
    expect((await other.list()).map(({ name }) => name)).toEqual(['shared']);
    expect((await platform.list()).map(({ name }) => name)).toEqual(['shared']);
    expect(await other.json('GET', '/v1/templates/shared')).toEqual(listed[1]);
    expect(await other.sandbox({ template: 'shared' })).toMatchObject({
      template: 'shared',
      memory_mb: 128,
      status: 'running',
    });
    expect(fleet.agent.requests.at(-1)).toMatchObject({
      fromSnapshot: true,
      teamId: other.id,
    });
  });

  test('is taken by an admin of the platform who acts in that team', async () => {
    const admin = await newUser(member.controlPlane, 'admin@example.com', true);
    const take = async (teamId: string | undefined, name: string) => {
      const headers: Record<string, string> = teamId === undefined ? {} : { 'x-team-id': teamId };
      const source = await admin.call('POST', '/v1/sandboxes', { memory_mb: 128 }, headers);
      const { id: sandbox_id } = (await source.json()) as rest.Sandbox;
      return made(admin.call('POST', '/v1/snapshots', { sandbox_id, name }, headers));
    };
    expect(await take(PLATFORM_TEAM_ID, 'of-admin')).toMatchObject({ platform: true });
    expect(await take(undefined, 'own-of-admin')).toMatchObject({ platform: false });
    expect((await team.list()).map(({ name }) => name)).toEqual(['of-admin']);
  });

  test.each(['/v1/templates', '/v1/snapshots'])('is deleted by its team only: %s', async (path) => {
    await made(platform.snapshot('shared'));
    const child = await team.sandbox({ template: 'shared' });
    expect(await errorOf(await team.call('DELETE', `${path}/shared`))).toMatchObject({
      status: 403,
      code: 'forbidden',
      message: 'shared belongs to the platform: platform templates cannot be deleted here.',
    });
    expect((await team.list()).map(({ name }) => name)).toEqual(['shared']);
    expect((await platform.call('DELETE', `${path}/shared`)).status).toBe(204);
    expect(await team.list()).toEqual([]);
    expect((await team.call('POST', '/v1/sandboxes', { template: 'shared' })).status).toBe(404);
    expect(await team.json('GET', `/v1/sandboxes/${child.id}`)).toMatchObject({
      status: 'running',
    });
  });

  test('is replaced by its team only, when the new one is published', async () => {
    await made(platform.snapshot('shared'));
    const { build_id: old } = await team.json<rest.Template>('GET', '/v1/templates/shared');
    expect(await errorOf(await team.snapshot('shared', '?overwrite=true'))).toMatchObject({
      status: 409,
      code: 'template_name_taken',
    });
    const gate = Promise.withResolvers<void>();
    fleet.agent.builds.commitGate = gate.promise;
    const calls = fleet.agent.count('createSnapshot');
    const replaced = platform.snapshot('shared', '?overwrite=true');
    await until(() => fleet.agent.count('createSnapshot') > calls);
    expect(await team.json('GET', '/v1/templates/shared')).toMatchObject({ build_id: old });
    gate.resolve();
    const { build_id: next } = await made(replaced);
    expect(next).not.toBe(old);
    expect(await team.json('GET', '/v1/templates/shared')).toMatchObject({ build_id: next });
  });

  test('counts for the team Platform, and what is made from it for who made it', async () => {
    const quotas = ['snapshots', 'disk_mb'] as const;
    const used = (of: Team) => Promise.all(quotas.map((name) => of.quota(name)));
    const other = await newTeam();
    await made(platform.snapshot('shared'));
    expect(await platform.quota('snapshots')).toBe(1);
    expect(await used(other)).toEqual([0, 0]);
    const metered = async (id: string) => {
      await until(async () => (await fleet.count('outbox where delivered_at is null')) === 0);
      const { rows } = await fleet.database.query(
        `select resource_type as type, resource from usage_intervals
         where team_id = $1 and ended_at is null and (resource_type = 'snapshot' or $1 <> $2)`,
        [id, PLATFORM_TEAM_ID],
      );
      return rows;
    };
    expect(await metered(PLATFORM_TEAM_ID)).toEqual([{ type: 'snapshot', resource: 'shared' }]);
    expect(await metered(other.id)).toEqual([]);
    const { id } = await other.sandbox({ template: 'shared' });
    expect(await used(other)).toEqual([0, 1024]);
    expect(await metered(other.id)).toEqual([{ type: 'sandbox', resource: id }]);
    expect(await platform.quota('snapshots')).toBe(1);
  });

  test('its sandboxes and audit log stay those of the team Platform', async () => {
    const { id } = await platform.sandbox();
    await made(platform.call('POST', '/v1/snapshots', { sandbox_id: id, name: 'shared' }));
    expect((await team.call('GET', `/v1/sandboxes/${id}`)).status).toBe(404);
    const entries = await team.json<rest.AuditPage>('GET', '/v1/audit-logs?resource_id=shared');
    expect(entries.items.filter(({ action }) => action === 'create')).toEqual([]);
  });
});

describe('a name', () => {
  test('of a template of the platform is not given to a snapshot of a team', async () => {
    await made(platform.snapshot('shared'));
    for (const query of ['', '?overwrite=true']) {
      const { id } = await team.sandbox();
      const body = { sandbox_id: id, name: 'shared' };
      const refused = await team.call('POST', `/v1/snapshots${query}`, body);
      expect(await errorOf(refused)).toMatchObject({
        status: 409,
        code: 'template_name_taken',
        message: 'shared is the name of a template of the platform.',
        remedy: 'Choose another name.',
      });
      expect(await team.json('GET', `/v1/sandboxes/${id}`)).toMatchObject({ status: 'running' });
    }
    await platform.call('DELETE', '/v1/templates/shared');
    expect(await made(team.snapshot('shared'))).toMatchObject({ platform: false });
  });

  test('that a team had before the platform stays that of the team, until the team deletes it', async () => {
    const own = await made(team.snapshot('warm'));
    const shared = await made(platform.snapshot('warm'));
    const other = await newTeam();
    const means = async (of: Team) => {
      const { build_id } = await of.json<rest.Template>('GET', '/v1/templates/warm');
      const listed = await of.list();
      expect(listed.map((one) => one.build_id)).toEqual([build_id]);
      await of.sandbox({ template: 'warm' });
      return build_id;
    };
    expect(await means(team)).toBe(own.build_id);
    expect(await means(other)).toBe(shared.build_id);
    expect(await errorOf(await other.snapshot('warm'))).toMatchObject({
      code: 'template_name_taken',
    });
    const next = await made(team.snapshot('warm', '?overwrite=true'));
    expect(await means(team)).toBe(next.build_id);
    expect((await team.call('DELETE', '/v1/templates/warm')).status).toBe(204);
    expect(await means(team)).toBe(shared.build_id);
    expect((await team.call('DELETE', '/v1/templates/warm')).status).toBe(403);
    expect((await team.snapshot('warm')).status).toBe(409);
  });

  test.each([
    ['a team', () => team],
    ['the platform', () => platform],
  ])('of an image is reserved, for %s', async (_, of) => {
    expect(await errorOf(await of().snapshot('base', '?overwrite=true'))).toMatchObject({
      status: 409,
      code: 'name_reserved',
    });
  });

  test('that the platform is giving is taken, and free again if that fails', async () => {
    const { builds } = fleet.agent;
    const gate = Promise.withResolvers<void>();
    builds.commitGate = gate.promise;
    const calls = fleet.agent.count('createSnapshot');
    const failed = platform.snapshot('shared');
    await until(() => fleet.agent.count('createSnapshot') > calls);
    expect((await team.snapshot('shared')).status).toBe(409);
    builds.commitError = new TorporError('disk_full', 'The disk is full.');
    gate.resolve();
    expect((await failed).status).toBe(507);
    builds.reset();
    await made(team.snapshot('shared'));
  });

  test('is not taken by a team after the platform, in a race of control planes', async () => {
    const second = await fleet.join();
    const there = new Team(second, platform.id, platform.key);
    // In which order the rows of a name were written.
    await fleet.database.query(`
      create table taken (n bigint generated always as identity, name text, team_id text);
      create function record_taken() returns trigger language plpgsql as $$
      begin
        insert into taken (name, team_id) values (new.name, new.team_id);
        return null;
      end $$;
      create trigger record_taken after insert on templates
      for each row execute function record_taken()`);
    const race = async (name: string) => {
      const sources = await Promise.all([team.sandbox(), there.sandbox()]);
      await Promise.all(
        [team, there].map((of, index) =>
          of.call('POST', '/v1/snapshots', { sandbox_id: sources[index]?.id, name }),
        ),
      );
    };
    await Promise.all(Array.from({ length: 16 }, (_, index) => race(`race-${index}`)));
    const { rows } = await fleet.database.query(
      `select name, array_agg(team_id = $1 order by n) as by_platform from taken
       group by name order by name`,
      [PLATFORM_TEAM_ID],
    );
    expect(rows).toHaveLength(16);
    for (const { name, by_platform } of rows) {
      expect([[true], [false, true]], name).toContainEqual(by_platform);
    }
  });
});

describe('default user and environment', () => {
  const defaults = { default_user: 'user', default_env: { LANG: 'C.UTF-8', A: '1' } };

  test('are those of sandboxes made from the template, and of snapshots of these', async () => {
    expect(await made(platform.snapshot('shared', '', defaults))).toMatchObject(defaults);
    const child = await team.sandbox({ template: 'shared', envs: { A: '2' } });
    expect(fleet.agent.requests.at(-1)).toMatchObject({
      defaultUser: 'user',
      defaultEnv: defaults.default_env,
      envs: { A: '2' },
    });
    const forked = await team.json<rest.ForkResult>('POST', `/v1/sandboxes/${child.id}/fork`, {});
    for (const id of [child.id, forked.children[0]?.sandbox?.id]) {
      const body = { sandbox_id: id, name: `of-${id}` };
      expect(await made(team.call('POST', '/v1/snapshots', body))).toMatchObject(defaults);
    }
    const body = { sandbox_id: child.id, name: 'root', default_user: 'root', default_env: {} };
    const changed = await made(team.call('POST', '/v1/snapshots', body));
    expect(changed.default_user).toBe('root');
    expect(changed.default_env).toBeUndefined();
  });

  test('are not set if nobody set them', async () => {
    const snapshot = await made(team.snapshot('plain'));
    expect(snapshot.default_user ?? snapshot.default_env).toBeUndefined();
    await team.sandbox({ template: 'plain' });
    const request = fleet.agent.requests.at(-1);
    expect(request).toMatchObject({ defaultEnv: {} });
    expect(request).not.toHaveProperty('defaultUser');
  });

  test.each([
    ['an empty user', { default_user: '' }],
    ['a number', { default_user: '1000' }],
    ['a user with a group', { default_user: 'a:b' }],
    ['a long user', { default_user: 'x'.repeat(33) }],
    ['a name with =', { default_env: { 'A=B': '1' } }],
    ['a value with NUL', { default_env: { A: '\0' } }],
    ['more than 32 KiB', { default_env: { A: 'x'.repeat(32_768) } }],
  ])('are refused: %s', async (_, body) => {
    expect(await errorOf(await team.snapshot('plain', '', body))).toMatchObject({
      status: 400,
      code: 'invalid_request',
    });
  });
});

test('the SDK lists, gets and deletes', async () => {
  await made(platform.snapshot('shared'));
  await made(team.snapshot('own'));
  await using torpor = new Torpor({ apiUrl: member.controlPlane.url, apiKey: team.key });
  const listed = await torpor.templates.list();
  expect(listed.map(({ name, platform: shared }) => [name, shared])).toEqual([
    ['own', false],
    ['shared', true],
    ['base', true],
    ['python', true],
  ]);
  expect(await torpor.snapshots.list()).toEqual(listed);
  expect(await torpor.templates.get('shared')).toEqual(listed[1]);
  await expect(torpor.templates.delete('shared')).rejects.toMatchObject({ code: 'forbidden' });
  await torpor.templates.delete('own');
  expect((await torpor.templates.list({ type: 'snapshot' })).map(({ name }) => name)).toEqual([
    'shared',
  ]);
});
