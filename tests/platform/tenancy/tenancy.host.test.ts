/** Who may call what: every operation of the API, by every kind of caller. */
import { renderOpenApi } from '@torpor/control-plane/testing';
import { PERMISSION_NAMES, type Permission, rest } from '@torpor/protocol';
import { until } from '@torpor/testkit/control-plane';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { WebSocket } from 'ws';
import { ACCESS, expected, type Row } from './access-table.ts';
import { type Caller, makeCallers } from './callers.ts';
import { World } from './world.ts';

interface OpenApi {
  readonly paths: Record<string, Record<string, { readonly 'x-permission'?: string }>>;
}

const document = JSON.parse(await renderOpenApi()) as OpenApi;
const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, { 'x-permission': permission }]) => ({
    operation: `${method.toUpperCase()} ${path}`,
    permission,
  })),
);

let world: World;
let callers: Caller[];
beforeAll(async () => {
  world = await World.open();
  callers = await makeCallers(world);
}, 120_000);
afterAll(() => world[Symbol.asyncDispose]());

/** A request of a caller for what the first team owns. */
async function call(operation: string, row: Row, caller: Caller): Promise<Response> {
  const [method = '', pattern = ''] = operation.split(' ');
  const { params = {}, query = '', body, headers } = (await row.to?.(world, caller)) ?? {};
  const path = pattern.replaceAll(/\{(\w+)\}/g, (_, name: string) => params[name] ?? 'none');
  const text = typeof body === 'object' ? JSON.stringify(body) : body;
  return fetch(`${world.server.url}${path}${query}`, {
    method,
    redirect: 'manual',
    headers: {
      ...(typeof body === 'object' ? { 'content-type': 'application/json' } : {}),
      'x-forwarded-for': `198.51.100.${callers.indexOf(caller)}`,
      ...caller.headers,
      ...headers,
    },
    ...(text === undefined ? {} : { body: text }),
  });
}

afterEach(() => world.sweep());

test('every operation has a row that says who may call it, and every row an operation', () => {
  expect(Object.keys(ACCESS).toSorted()).toEqual(
    operations.map(({ operation }) => operation).toSorted(),
  );
});

const rows = Object.entries(ACCESS).flatMap(([operation, of]) =>
  [of].flat().map((row) => [`${operation} ${row.variant ?? ''}`.trim(), operation, row] as const),
);

test.each(rows)('%s succeeds for those who may, and for no one else', async (_, operation, row) => {
  const got: Record<string, number> = {};
  const leaks: string[] = [];
  for (const caller of callers) {
    const response = await call(operation, row, caller);
    got[caller.name] = response.status;
    const text = await response.text();
    const isOwn = caller.inTeam || row.who === 'operator';
    // What the caller itself has sent may come back in an error.
    if (isOwn || !response.ok) continue;
    for (const id of world.known) if (text.includes(id)) leaks.push(`${caller.name}: ${id}`);
  }
  const wanted = Object.fromEntries(callers.map((caller) => [caller.name, expected(row, caller)]));
  expect(got).toEqual(wanted);
  expect(leaks).toEqual([]);
});

/** What names no permission, and so has no key that lacks it. */
const WITHOUT_PERMISSION = new Set(['authenticated', 'user', undefined]);

describe('a key with every permission but one', () => {
  const guarded = operations.filter(({ permission }) => !WITHOUT_PERMISSION.has(permission));
  test.each(guarded.map(({ operation, permission }) => [operation, permission as Permission]))(
    'cannot call %s without %s',
    async (operation, permission) => {
      const scopes = PERMISSION_NAMES.filter((name) => name !== permission);
      const headers = { 'x-api-key': await world.key(world.team, scopes) };
      const caller: Caller = {
        name: 'key',
        kind: 'key',
        headers,
        inTeam: true,
        isOperator: false,
      };
      const [row] = [ACCESS[operation] ?? []].flat();
      if (row === undefined) throw new Error(`no row for ${operation}`);
      const response = await call(operation, row, caller);
      expect(response.status).toBe(403);
      const { error } = rest.errorBodySchema.parse(await response.json());
      expect(error.message).toContain(permission);
    },
  );
});

/** How a WebSocket ends, or `open`: the status of a refusal, or the code of an error. */
async function openStream(
  path: string,
  headers: Readonly<Record<string, string>>,
  ...frames: object[]
): Promise<string> {
  const socket = new WebSocket(`${world.server.url.replace('http', 'ws')}${path}`, { headers });
  let outcome: string | undefined;
  socket.on('error', () => undefined);
  socket.on('unexpected-response', (_, response) => {
    outcome = String(response.statusCode);
    socket.terminate();
  });
  socket.on('open', () => {
    for (const frame of frames) socket.send(JSON.stringify(frame));
  });
  socket.on('message', (data) => {
    const frame = JSON.parse(String(data)) as { type: string; code?: string };
    outcome ??= frame.type === 'error' ? frame.code : 'open';
  });
  await until(() => outcome !== undefined);
  socket.terminate();
  return outcome ?? '';
}

describe.each(['exec/stream', 'pty', 'processes/{selector}/stream'])('the WebSocket %s', (kind) => {
  const start = { type: 'start', cmd: 'sh', args: ['-c', 'echo x; sleep 600'], cols: 80, rows: 24 };
  let path: string;
  beforeAll(async () => {
    const id = await world.sandbox(true);
    const selector = await world.process(id);
    path = `/v1/sandboxes/${id}/${kind.replace('{selector}', selector)}`;
  });
  const frames = () => (kind.startsWith('processes') ? [] : [withoutSize(kind, start)]);
  const outcome = (caller: Caller, refused: readonly [string, string]) => {
    const status = expected({ who: 'member', where: 'resource', ok: 101 }, caller);
    if (status === 101) return 'open';
    if (status === 404) return 'not_found';
    return status === 401 ? refused[0] : refused[1];
  };

  test('opens for members only, with credentials in the header', async () => {
    for (const caller of callers) {
      if (caller.name === 'nobody') continue;
      const got = await openStream(path, caller.headers, ...frames());
      expect(got, caller.name).toBe(outcome(caller, ['401', '403']));
    }
  });

  test('opens for members only, with credentials in the first frame', async () => {
    for (const caller of callers) {
      const { 'x-api-key': key, authorization, 'x-team-id': team } = caller.headers;
      const token = key ?? authorization?.replace('Bearer ', '');
      if (token === undefined || team !== undefined) continue;
      const got = await openStream(path, {}, { type: 'auth', token }, ...frames());
      expect(got, caller.name).toBe(outcome(caller, ['unauthorized', 'forbidden']));
    }
  });
});

function withoutSize(kind: string, { cols, rows: lines, ...start }: Record<string, unknown>) {
  return kind === 'pty' ? { ...start, cols, rows: lines } : start;
}

test('what others attempted is not in the audit log of the team', async () => {
  const strangers = callers.flatMap(({ inTeam, isOperator, person }) =>
    inTeam || isOperator || person === undefined ? [] : [person.id],
  );
  await until(async () => (await world.fleet.count('outbox where delivered_at is null')) === 0);
  const { rows: entries } = await world.fleet.database.query(
    `select action, actor_id, resource_id from audit_logs where team_id = $1 and actor_id = any ($2)
       and action not in ('add', 'create', 'login')`,
    [world.team, strangers],
  );
  expect(entries).toEqual([]);
});
