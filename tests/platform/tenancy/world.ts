/** A control plane with two teams, and what the first one owns. */
import { createHash } from 'node:crypto';
import { newApiKey, newId, PERMISSION_NAMES, type Permission, rest } from '@torpor/protocol';
import {
  Fleet,
  invited,
  logIn,
  type Member,
  newUser,
  type Person,
  type Server,
} from '@torpor/testkit/control-plane';

export const PLATFORM_TEAM = 'tm00000000000000000000';

export class World implements AsyncDisposable {
  readonly fleet: Fleet;
  readonly member: Member;
  readonly owner: Person;
  readonly admin: Person;
  readonly plain: Person;
  /** A member who calls nothing, but is called upon. */
  readonly victim: Person;
  readonly team: string;
  /** Every id of what the first team owns, and what only its members may know. */
  readonly known = new Set<string>();
  readonly #kept = new Set<string>();
  #made = 0;

  private constructor(
    fleet: Fleet,
    member: Member,
    people: Pick<World, 'owner' | 'admin' | 'plain' | 'victim' | 'team'>,
  ) {
    this.fleet = fleet;
    this.member = member;
    this.owner = people.owner;
    this.admin = people.admin;
    this.plain = people.plain;
    this.victim = people.victim;
    this.team = people.team;
    for (const { id, email } of [this.owner, this.admin, this.plain, this.victim]) {
      this.known.add(id).add(email);
    }
  }

  static async open(): Promise<World> {
    const fleet = await Fleet.open();
    const member = await fleet.join({
      agents: { host: '127.0.0.1', port: 0 },
      // So that the limits of attempts do not count all callers as one.
      trustedProxies: ['127.0.0.0/8'],
      webhookNetworks: ['127.0.0.0/8'],
    });
    const owner = await newUser(member.controlPlane, 'first-owner@example.com');
    const team = await teamOf(owner);
    return new World(fleet, member, {
      owner,
      team,
      admin: await invited(owner, team, 'admin', 'first-admin@example.com'),
      plain: await invited(owner, team, 'member', 'first-member@example.com'),
      victim: await invited(owner, team, 'member', 'first-victim@example.com'),
    });
  }

  get server(): Server {
    return this.member.controlPlane;
  }

  name(): string {
    return `thing-${this.#made++}`;
  }

  async #own<T>(path: string, body: object): Promise<T> {
    const response = await this.member.call('POST', path, body);
    const text = await response.text();
    if (!response.ok) throw new Error(`POST ${path}: ${text}`);
    return JSON.parse(text) as T;
  }

  /** `isKept`: also after {@link sweep}. */
  async sandbox(isKept = false): Promise<string> {
    const { id } = await this.member.create();
    this.known.add(id);
    if (isKept) this.#kept.add(id);
    return id;
  }

  /** Destroys the sandboxes of all teams, so that the host has memory for others. */
  async sweep(): Promise<void> {
    const { rows } = await this.fleet.database.query<{ id: string; team_id: string }>(
      `select id, team_id from sandboxes where state = 'running'`,
    );
    for (const { id, team_id: team } of rows) {
      if (this.#kept.has(id)) continue;
      const headers = { 'x-api-key': await this.key(team) };
      await fetch(`${this.server.url}/v1/sandboxes/${id}`, { method: 'DELETE', headers });
    }
  }

  async pausedSandbox(): Promise<string> {
    const id = await this.sandbox();
    await this.#own(`/sandboxes/${id}/pause`, {});
    return id;
  }

  async process(sandbox: string): Promise<string> {
    const body = { cmd: 'sleep', args: ['600'], background: true };
    const { pid } = await this.#own<rest.BackgroundExec>(`/sandboxes/${sandbox}/exec`, body);
    return String(pid);
  }

  async snapshot(): Promise<string> {
    const name = `snapshot-${this.name()}`;
    await this.#own('/snapshots', { sandbox_id: await this.sandbox(), name });
    this.known.add(name);
    return name;
  }

  /** A template that every team may use. */
  async platformTemplate(): Promise<string> {
    const name = `platform-${this.name()}`;
    const headers = { 'x-api-key': await this.key(PLATFORM_TEAM) };
    const post = async (path: string, body: object) => {
      const url = `${this.server.url}/v1${path}`;
      const response = await fetch(url, { method: 'POST', headers, body: JSON.stringify(body) });
      if (response.status !== 201) throw new Error(`POST ${path}: ${await response.text()}`);
      return (await response.json()) as { id: string };
    };
    const { id: sandbox_id } = await post('/sandboxes', { memory_mb: 128 });
    await post('/snapshots', { sandbox_id, name });
    return name;
  }

  async apiKey(): Promise<string> {
    const { id } = await this.#own<rest.CreatedApiKey>('/api-keys', { name: this.name() });
    this.known.add(id);
    return id;
  }

  async webhook(): Promise<string> {
    const { id } = await this.#own<rest.CreatedWebhook>('/webhooks', {
      name: this.name(),
      url: 'http://127.0.0.1:9/',
      event_types: ['host.*'],
    });
    this.known.add(id);
    return id;
  }

  async host(): Promise<string> {
    const body = { name: this.name(), type: 'team', tags: ['old'] };
    const { host } = await this.#own<rest.CreatedHost>('/hosts', body);
    this.known.add(host.id);
    return host.id;
  }

  async invitation(): Promise<string> {
    const path = `/teams/${this.team}/invitations`;
    const { id } = await this.#own<rest.CreatedInvitation>(path, {});
    this.known.add(id);
    return id;
  }

  /** A user who is in no team. */
  async user(): Promise<string> {
    const id = newId('user');
    await this.fleet.database.query(
      `insert into users (id, email, name) values ($1, $2, 'Another')`,
      [id, `${id}@example.com`],
    );
    return id;
  }

  /** A member of the first team. */
  async newMember(): Promise<string> {
    const id = await this.user();
    await this.#addTo(this.team, id);
    this.known.add(id);
    return id;
  }

  /** A team that a user can leave: the user is a member of it. */
  async teamToLeave(user: string): Promise<string> {
    const { id } = await this.victim.json<rest.Team>('POST', '/v1/teams', { name: this.name() });
    await this.#addTo(id, user);
    return id;
  }

  async #addTo(team: string, user: string): Promise<void> {
    await this.fleet.database.query(
      `insert into team_members (team_id, user_id, role) values ($1, $2, 'member')`,
      [team, user],
    );
  }

  async session(person: Person): Promise<string> {
    const { token } = await logIn(this.server, person.email);
    return token;
  }

  async sessionId(person: Person): Promise<string> {
    const sessions = await person.json<rest.Session[]>('GET', '/v1/auth/sessions');
    return sessions[0]?.id ?? '';
  }

  /** A key of a team; `expiresAt` is a time of PostgreSQL. */
  async key(
    team: string,
    scopes: readonly Permission[] = PERMISSION_NAMES,
    expiresAt?: string,
  ): Promise<string> {
    const key = newApiKey();
    await this.fleet.database.query(
      `insert into api_keys (id, team_id, name, key_hash, key_prefix, scopes, expires_at, created_by)
       values ($1, $2, 'test', $3, 'tpr_', $4, $5, 'test')`,
      [newId('apiKey'), team, createHash('sha256').update(key).digest('hex'), scopes, expiresAt],
    );
    return key;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.fleet[Symbol.asyncDispose]();
  }
}

export async function teamOf(person: Person): Promise<string> {
  const { team } = rest.callerSchema.parse(await person.json('GET', '/v1/me'));
  return team?.id ?? '';
}
