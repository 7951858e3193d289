/**
 * Who may call which operation of the API. Written by hand: it is what is expected, and not made
 * of what the code says.
 */
import type { Caller, Role } from './callers.ts';
import type { World } from './world.ts';

export interface Target {
  /** Of the path. */
  readonly params?: Readonly<Record<string, string>>;
  readonly query?: string;
  /** Text is sent as it is. */
  readonly body?: object | string;
  /** Instead of those of the caller. */
  readonly headers?: Readonly<Record<string, string>>;
}

export interface Row {
  /** `user`: whoever is logged in; `operator`: besides the role that `min` says. */
  readonly who: 'public' | 'anyone' | 'user' | 'operator' | Role;
  /**
   * `own`: in the team of the caller; `resource`: what the first team owns, of which others do
   * not learn that it exists; `platform`: what the team of the platform owns, which others know; `team`: the first team itself, in the path; `body`: in the body,
   * which is read after it is known that the caller may send one.
   */
  readonly where: 'own' | 'resource' | 'platform' | 'team' | 'body';
  /** The status for those who are allowed. */
  readonly ok: number;
  readonly to?: (world: World, caller: Caller) => Target | Promise<Target>;
  /** Not the operation's first row. */
  readonly variant?: string;
}

type To = NonNullable<Row['to']>;

const row = (who: Row['who'], where: Row['where'], ok: number, to?: To): Row => ({
  who,
  where,
  ok,
  ...(to === undefined ? {} : { to }),
});

/** Made once: for what can be called again and again. */
function once(make: (world: World) => Promise<string>): (world: World) => Promise<string> {
  let made: Promise<string> | undefined;
  return (world) => (made ??= make(world));
}

const theSandbox = once((world) => world.sandbox(true));
const theSnapshot = once((world) => world.snapshot());
const theShared = once((world) => world.platformTemplate());
const theHost = once((world) => world.host());
const theWebhook = once((world) => world.webhook());

const sandbox =
  (more: Omit<Target, 'params'> = {}): To =>
  async (world) => ({ params: { id: await theSandbox(world) }, ...more });
const webhook =
  (body?: object): To =>
  async (world) => ({ params: { id: await theWebhook(world) }, ...(body && { body }) });
const host =
  (more: { body?: object; tag?: string } = {}): To =>
  async (world) => ({
    params: { id: await theHost(world), ...(more.tag === undefined ? {} : { tag: more.tag }) },
    ...(more.body && { body: more.body }),
  });
const team =
  (body?: object): To =>
  ({ team: id }) => ({ params: { team_id: id }, ...(body && { body }) });
const body =
  (value: object): To =>
  () => ({ body: value });

const FORM = [
  '--x',
  'Content-Disposition: form-data; name="file"; filename="f"',
  '',
  'content',
  '--x--',
  '',
].join('\r\n');
const form = sandbox({
  query: '?path=form',
  body: FORM,
  headers: { 'content-type': 'multipart/form-data; boundary=x' },
});

function templatesAt(path: string): Record<string, Row | Row[]> {
  const named = (name: (world: World) => Promise<string>) => async (world: World) => ({
    params: { name: await name(world) },
  });
  const variant = 'of the platform';
  return {
    [`GET ${path}`]: row('member', 'own', 200),
    [`GET ${path}/{name}`]: [
      row('member', 'resource', 200, named(theSnapshot)),
      { ...row('member', 'own', 200, named(theShared)), variant },
    ],
    [`DELETE ${path}/{name}`]: [
      row(
        'member',
        'resource',
        204,
        named((world) => world.snapshot()),
      ),
      {
        ...row(
          'member',
          'platform',
          204,
          named((world) => world.platformTemplate()),
        ),
        variant,
      },
    ],
  };
}

const SANDBOXES: Record<string, Row | Row[]> = {
  'POST /v1/sandboxes': [
    row('member', 'own', 201, body({ memory_mb: 128 })),
    {
      ...row('member', 'resource', 201, async (world) => ({
        body: { memory_mb: 128, template: await theSnapshot(world) },
      })),
      variant: 'from a snapshot',
    },
    {
      ...row('member', 'own', 201, async (world) => ({
        body: { template: await theShared(world) },
      })),
      variant: 'from a template of the platform',
    },
  ],
  'GET /v1/sandboxes': row('member', 'own', 200),
  'GET /v1/sandboxes/{id}': row('member', 'resource', 200, sandbox()),
  'DELETE /v1/sandboxes/{id}': row('member', 'resource', 204, async (world) => ({
    params: { id: await world.sandbox() },
  })),
  'POST /v1/sandboxes/{id}/ping': row('member', 'resource', 204, sandbox()),
  'GET /v1/sandboxes/{id}/console': row('member', 'resource', 200, sandbox()),
  'POST /v1/sandboxes/{id}/pause': row('member', 'resource', 200, async (world) => ({
    params: { id: await world.sandbox() },
  })),
  'POST /v1/sandboxes/{id}/resume': row('member', 'resource', 200, async (world) => ({
    params: { id: await world.pausedSandbox() },
  })),
  'POST /v1/sandboxes/{id}/fork': row('member', 'resource', 201, sandbox({ body: { count: 1 } })),
  'POST /v1/sandboxes/{id}/exec': row(
    'member',
    'resource',
    200,
    sandbox({ body: { cmd: 'true' } }),
  ),
  'GET /v1/sandboxes/{id}/processes': row('member', 'resource', 200, sandbox()),
  'DELETE /v1/sandboxes/{id}/processes/{selector}': row(
    'member',
    'resource',
    204,
    async (world) => {
      const id = await theSandbox(world);
      return { params: { id, selector: await world.process(id) } };
    },
  ),
  // Plain requests; the WebSockets have a test of their own.
  'GET /v1/sandboxes/{id}/exec/stream': row('member', 'own', 400, sandbox()),
  'GET /v1/sandboxes/{id}/pty': row('member', 'own', 400, sandbox()),
  'GET /v1/sandboxes/{id}/processes/{selector}/stream': row(
    'member',
    'own',
    400,
    async (world) => ({
      params: { id: await theSandbox(world), selector: '1' },
    }),
  ),
  'GET /v1/sandboxes/{id}/files': row('member', 'resource', 200, async (world) => {
    const id = await theSandbox(world);
    await world.member.call('POST', `/sandboxes/${id}/exec`, { cmd: 'touch', args: ['read'] });
    return { params: { id }, query: '?path=read' };
  }),
  'PUT /v1/sandboxes/{id}/files': row(
    'member',
    'resource',
    204,
    sandbox({ query: '?path=put', body: 'content' }),
  ),
  'POST /v1/sandboxes/{id}/files/write': row('member', 'resource', 204, form),
  'POST /v1/sandboxes/{id}/files/stream/write': row('member', 'resource', 204, form),
  'POST /v1/sandboxes/{id}/files/read': row(
    'member',
    'resource',
    200,
    sandbox({ body: { path: 'read' } }),
  ),
  'POST /v1/sandboxes/{id}/files/stream/read': row(
    'member',
    'resource',
    200,
    sandbox({ body: { path: 'read' } }),
  ),
  'POST /v1/sandboxes/{id}/files/list': row(
    'member',
    'resource',
    200,
    sandbox({ body: { path: '.' } }),
  ),
  'POST /v1/sandboxes/{id}/files/mkdir': row('member', 'resource', 200, async (world) => ({
    params: { id: await theSandbox(world) },
    body: { path: world.name() },
  })),
  'POST /v1/sandboxes/{id}/files/remove': row('member', 'resource', 204, async (world) => {
    const id = await theSandbox(world);
    await world.member.call('POST', `/sandboxes/${id}/exec`, { cmd: 'touch', args: ['removed'] });
    return { params: { id }, body: { path: 'removed' } };
  }),
  'POST /v1/snapshots': row('member', 'resource', 201, async (world) => ({
    body: { sandbox_id: await world.sandbox(), name: world.name() },
  })),
  ...templatesAt('/v1/snapshots'),
  ...templatesAt('/v1/templates'),
};

const HOSTS: Record<string, Row | Row[]> = {
  'GET /v1/builds': row('operator', 'own', 200, () => ({ query: '?verify=true' })),
  'POST /v1/builds/collect': row('operator', 'own', 200),
  'POST /v1/hosts': [
    row('admin', 'own', 201, (world) => ({ body: { name: world.name(), type: 'team' } })),
    {
      ...row('operator', 'own', 201, (world) => ({
        body: { name: world.name(), type: 'regular' },
      })),
      variant: 'of the platform',
    },
  ],
  'GET /v1/hosts': row('admin', 'own', 200),
  'GET /v1/hosts/{id}': row('admin', 'resource', 200, host()),
  'PATCH /v1/hosts/{id}': row('admin', 'resource', 200, host({ body: { draining: false } })),
  'DELETE /v1/hosts/{id}': row('admin', 'resource', 204, async (world) => ({
    params: { id: await world.host() },
  })),
  'GET /v1/hosts/{id}/delete-preview': row('admin', 'resource', 200, host()),
  'POST /v1/hosts/{id}/token': row('admin', 'resource', 201, host()),
  'GET /v1/hosts/{id}/tags': row('admin', 'resource', 200, host()),
  'POST /v1/hosts/{id}/tags': row('admin', 'resource', 204, host({ body: { tag: 'new' } })),
  'DELETE /v1/hosts/{id}/tags/{tag}': row('admin', 'resource', 204, async (world) => ({
    params: { id: await world.host(), tag: 'old' },
  })),
};

const ACCOUNTS: Record<string, Row | Row[]> = {
  'GET /health': row('public', 'own', 200),
  'GET /metrics': row('public', 'own', 200),
  'POST /v1/auth/signup': row(
    'public',
    'own',
    403,
    body({ email: 'new@example.com', name: 'New', password: 'long enough' }),
  ),
  'POST /v1/auth/login': row(
    'public',
    'own',
    401,
    body({ email: 'nobody@example.com', password: 'wrong' }),
  ),
  'POST /v1/auth/logout': row('user', 'own', 204, async (world, { person }) =>
    person === undefined
      ? {}
      : { headers: { authorization: `Bearer ${await world.session(person)}` } },
  ),
  'GET /v1/auth/sessions': row('user', 'own', 200),
  // That of another user, whoever asks.
  'DELETE /v1/auth/sessions/{id}': row('user', 'own', 404, async (world) => ({
    params: { id: await world.sessionId(world.victim) },
  })),
  'POST /v1/auth/switch-team': row('user', 'body', 204, (world) => ({
    body: { team_id: world.team },
  })),
  'POST /v1/auth/password': row(
    'public',
    'own',
    404,
    body({ token: `tpp_${'A'.repeat(43)}`, new_password: 'long enough' }),
  ),
  'POST /v1/auth/password-reset': row('public', 'own', 501, body({ email: 'nobody@example.com' })),
  'GET /v1/auth/providers': row('public', 'own', 200),
  // No provider is configured.
  'GET /v1/auth/oauth/{provider}/start': row('public', 'own', 404),
  'POST /v1/auth/oauth/{provider}/start': row('public', 'own', 404, body({})),
  'GET /v1/auth/oauth/{provider}/callback': row('public', 'own', 404),
  'POST /v1/auth/device': row('public', 'own', 201),
  'POST /v1/auth/device/token': row('public', 'own', 404, body({ device_code: 'none' })),
  'GET /v1/me/identities': row('user', 'own', 200),
  'POST /v1/me/identities': row('user', 'own', 404, body({ provider: 'github' })),
  'DELETE /v1/me/identities/{id}': row('user', 'own', 404),
  'GET /v1/me': row('anyone', 'own', 200),
  'PATCH /v1/me': row('user', 'own', 200, body({ name: 'Renamed' })),
  'DELETE /v1/me': row('user', 'own', 400, body({ confirmation: 'another@example.com' })),
  'POST /v1/me/password': row('user', 'own', 400, body({ new_password: 'short' })),
  'GET /v1/users': row('operator', 'own', 200),
  'POST /v1/users': row('operator', 'own', 201, (world) => ({
    body: { email: `${world.name()}@example.com` },
  })),
  'PATCH /v1/users/{id}': row('operator', 'own', 200, async (world) => ({
    params: { id: await world.user() },
    body: { status: 'active' },
  })),
  'POST /v1/users/{id}/password-link': row('operator', 'own', 201, async (world) => ({
    params: { id: await world.user() },
  })),
};

const TEAMS: Record<string, Row | Row[]> = {
  'GET /v1/teams': row('anyone', 'own', 200),
  'POST /v1/teams': row('user', 'own', 201, body({ name: 'Another' })),
  'GET /v1/teams/{team_id}': row('member', 'team', 200, team()),
  'PATCH /v1/teams/{team_id}': row('admin', 'team', 200, team({ name: 'First' })),
  // It still has sandboxes.
  'DELETE /v1/teams/{team_id}': row('owner', 'team', 409, team()),
  'GET /v1/teams/{team_id}/members': row('member', 'team', 200, team()),
  'PATCH /v1/teams/{team_id}/members/{user_id}': [
    row('admin', 'team', 204, (world) => ({
      params: { team_id: world.team, user_id: world.victim.id },
      body: { role: 'member' },
    })),
    {
      // The owner is the owner already.
      ...row('owner', 'team', 204, (world) => ({
        params: { team_id: world.team, user_id: world.owner.id },
        body: { role: 'owner' },
      })),
      variant: 'to owner',
    },
  ],
  'DELETE /v1/teams/{team_id}/members/{user_id}': row('admin', 'team', 204, async (world) => ({
    params: { team_id: world.team, user_id: await world.newMember() },
  })),
  'POST /v1/teams/{team_id}/leave': row('user', 'team', 204, async (world, caller) => ({
    params: {
      team_id:
        caller.inTeam && caller.person !== undefined
          ? await world.teamToLeave(caller.person.id)
          : world.team,
    },
  })),
  'POST /v1/teams/{team_id}/invitations': row('admin', 'team', 201, team({})),
  'GET /v1/teams/{team_id}/invitations': row('member', 'team', 200, team()),
  'DELETE /v1/teams/{team_id}/invitations/{id}': row('admin', 'team', 204, async (world) => ({
    params: { team_id: world.team, id: await world.invitation() },
  })),
  'POST /v1/invitations/preview': row('public', 'own', 404, body({ token: 'tpi_none' })),
  'POST /v1/invitations/accept': row('user', 'own', 404, body({ token: 'tpi_none' })),
  'POST /v1/api-keys': row('admin', 'own', 201, (world) => ({ body: { name: world.name() } })),
  'GET /v1/api-keys': row('admin', 'own', 200),
  'DELETE /v1/api-keys/{id}': row('admin', 'resource', 204, async (world) => ({
    params: { id: await world.apiKey() },
  })),
  'GET /v1/audit-logs': [
    row('member', 'own', 200),
    {
      ...row('member', 'own', 200, (world) => ({ query: `?actor_id=${world.owner.id}` })),
      variant: 'of an actor',
    },
    {
      ...row('operator', 'own', 200, () => ({ query: '?all_teams=true' })),
      variant: 'of all teams',
    },
  ],
  'GET /v1/events': [
    row('member', 'own', 200, () => ({ query: '?follow=false&after=0' })),
    {
      ...row('member', 'own', 200, async (world) => ({
        query: `?follow=false&after=0&resource_id=${await theSandbox(world)}`,
      })),
      variant: 'of a sandbox',
    },
  ],
  'GET /v1/usage': row('member', 'own', 200),
  'GET /v1/quotas': row('member', 'own', 200),
  'GET /v1/teams/{id}/quotas': row('operator', 'own', 200, ({ team: id }) => ({ params: { id } })),
  'PATCH /v1/teams/{id}/quotas': row('operator', 'own', 200, ({ team: id }) => ({
    params: { id },
    body: { webhooks: null },
  })),
  'POST /v1/webhooks': row('admin', 'own', 201, (world) => ({
    body: { name: world.name(), url: 'http://127.0.0.1:9/', event_types: ['host.up'] },
  })),
  'GET /v1/webhooks': row('admin', 'own', 200),
  'GET /v1/webhooks/{id}': row('admin', 'resource', 200, webhook()),
  'PATCH /v1/webhooks/{id}': row('admin', 'resource', 200, webhook({ enabled: true })),
  'POST /v1/webhooks/{id}/rotate-secret': row('admin', 'resource', 200, webhook()),
  'DELETE /v1/webhooks/{id}': row('admin', 'resource', 204, async (world) => ({
    params: { id: await world.webhook() },
  })),
  'POST /v1/webhooks/{id}/test': row('admin', 'resource', 200, webhook()),
  'GET /v1/webhooks/{id}/deliveries': row('admin', 'resource', 200, webhook()),
  'POST /v1/webhooks/{id}/redeliver': row('admin', 'resource', 200, webhook()),
};

/** By method and path of the OpenAPI description. An operation without a row fails the test. */
export const ACCESS: Record<string, Row | Row[]> = {
  ...SANDBOXES,
  ...HOSTS,
  ...ACCOUNTS,
  ...TEAMS,
};

const RANK: Record<Role, number> = { member: 1, admin: 2, owner: 3 };

/** The status that a caller must get. */
export function expected({ who, where, ok }: Row, caller: Caller): number {
  if (who === 'public') return ok;
  if (caller.kind === 'invalid') return 401;
  // Whoever is not in a team does not learn whether there is one.
  if (where === 'team' && !caller.inTeam) return 404;
  if (who === 'anyone') return ok;
  if (who === 'user' && caller.kind !== 'user') return 403;
  if (where === 'body' && !caller.inTeam) return 404;
  if (who === 'user') return ok;
  if (who === 'operator') return caller.isOperator ? ok : 403;
  if (caller.role === undefined || RANK[caller.role] < RANK[who]) return 403;
  if (where === 'platform') return caller.inPlatformTeam === true ? ok : 403;
  return where === 'resource' && !caller.inTeam ? 404 : ok;
}
