/** Streams that are open when their client loses access, on one of two control planes; it is taken away on the other. */
import { setTimeout as delay } from 'node:timers/promises';
import type { rest } from '@torpor/protocol';
import {
  Fleet,
  invited,
  logIn,
  type Member,
  newUser,
  PASSWORD,
  type Person,
  type Server,
  until,
} from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { WebSocket } from 'ws';

type Headers = Record<string, string>;

let fleet: Fleet;
/** Has the streams. */
let first: Member;
/** Where access is taken away. */
let second: Member;
let server: Server;
let owner: Person;
let teamId: string;

beforeAll(async () => {
  fleet = await Fleet.open();
  first = await fleet.join({ signUpOpen: true });
  second = await fleet.join({ signUpOpen: true });
  server = second.controlPlane;
  owner = await newUser(server, 'owner@example.com', true);
  [{ id: teamId = '' } = {}] = await owner.json<Partial<rest.Team>[]>('GET', '/v1/teams');
});
afterAll(() => fleet[Symbol.asyncDispose]());

/** A sandbox with programs. */
class Box {
  readonly id: string;

  constructor(id: string) {
    this.id = id;
  }

  static async create(): Promise<Box> {
    return new Box((await first.create()).id);
  }

  url(path: string): string {
    return `${first.controlPlane.url}/v1/sandboxes/${this.id}${path}`;
  }

  async start(cmd: string, ...args: string[]): Promise<number> {
    const body = { cmd, args, background: true };
    const response = await first.call('POST', `/sandboxes/${this.id}/exec`, body);
    return ((await response.json()) as rest.BackgroundExec).pid;
  }

  async pids(): Promise<number[]> {
    const response = await first.call('GET', `/sandboxes/${this.id}/processes`);
    return ((await response.json()) as rest.ProcessList).processes.map(({ pid }) => pid);
  }
}

const SLEEP = { type: 'start', cmd: 'sleep', args: ['600'] };

interface Opened {
  /** How it ended; undefined while it is open. */
  ended: string | undefined;
  close(): void;
}

async function events(headers: Headers): Promise<Opened> {
  const stop = new AbortController();
  const { signal } = stop;
  const response = await fetch(`${first.controlPlane.url}/v1/events`, { headers, signal });
  expect(response.status).toBe(200);
  const opened: Opened = { ended: undefined, close: () => stop.abort() };
  void response.text().then(
    () => {
      opened.ended = 'complete';
    },
    () => undefined,
  );
  return opened;
}

async function webSocket(
  box: Box,
  path: string,
  headers: Headers,
  start?: object,
): Promise<Opened> {
  const socket = new WebSocket(box.url(path).replace('http', 'ws'), { headers });
  let last = '';
  const opened: Opened = { ended: undefined, close: () => socket.terminate() };
  socket.on('open', () => start !== undefined && socket.send(JSON.stringify(start)));
  socket.on('message', (data) => {
    last = String(data);
  });
  socket.on('error', () => undefined);
  socket.on('close', (code) => {
    opened.ended = `${code} ${(JSON.parse(last) as { code?: string }).code}`;
  });
  await until(() => last !== '');
  return opened;
}

/** `ended` is the code of the error, or that there was no response. */
function request(box: Box, method: string, path: string, init: RequestInit): Opened {
  const stop = new AbortController();
  const opened: Opened = { ended: undefined, close: () => stop.abort() };
  void fetch(box.url(path), { ...init, method, signal: stop.signal }).then(
    async (response) => {
      const { error } = (await response.json()) as rest.ErrorBody;
      opened.ended = `${response.status} ${error.code}`;
    },
    () => undefined,
  );
  return opened;
}

async function exec(box: Box, headers: Headers): Promise<Opened> {
  const running = (await box.pids()).length;
  const body = JSON.stringify({ cmd: 'sleep', args: ['600'], timeout_sec: 0 });
  const opened = request(box, 'POST', '/exec', { headers, body });
  await until(async () => (await box.pids()).length > running);
  return opened;
}

function upload(box: Box, headers: Headers): Opened {
  const chunk = Buffer.from('more');
  const body = new ReadableStream({ pull: (to) => delay(20).then(() => to.enqueue(chunk)) });
  return request(box, 'PUT', '/files?path=endless', { headers, body, duplex: 'half' });
}

/** Reads a chunk; the rest when it is `ended`, which the caller finds out by reading. */
async function download(box: Box, headers: Headers) {
  const file = box.url('/files?path=large');
  const body = new Uint8Array(64 * 1024 * 1024);
  await fetch(file, { method: 'PUT', headers, body });
  const response = await fetch(file, { headers });
  const reader = response.body?.getReader();
  await reader?.read();
  return async () => {
    for (;;) if ((await reader?.read())?.done === true) return;
  };
}

const memberOf = (name: string) => invited(owner, teamId, 'member', `${name}@example.com`);
const bearer = ({ token }: Person): Headers => ({ authorization: `Bearer ${token}` });
const removal = (person: Person) =>
  owner.call('DELETE', `/v1/teams/${teamId}/members/${person.id}`);

async function keyOf(person: Person, body: object = {}) {
  const key = await person.json<rest.CreatedApiKey>('POST', '/v1/api-keys', { name: 'k', ...body });
  return { id: key.id, headers: { 'x-api-key': key.key } };
}

/** What loses access, and how. */
const LOSSES: [string, () => Promise<{ headers: Headers; lose: () => Promise<unknown> }>][] = [
  [
    'a key that is revoked',
    async () => {
      const { id, headers } = await keyOf(owner);
      return { headers, lose: () => owner.call('DELETE', `/v1/api-keys/${id}`) };
    },
  ],
  [
    'a key that expires',
    async () => {
      const { id, headers } = await keyOf(owner);
      const expire = `update api_keys set expires_at = now() where id = $1`;
      return { headers, lose: () => fleet.database.query(expire, [id]) };
    },
  ],
  [
    'the key of a member who is removed',
    async () => {
      const admin = await invited(owner, teamId, 'admin', 'keys@example.com');
      const { headers } = await keyOf(admin);
      return { headers, lose: () => removal(admin) };
    },
  ],
  [
    'a session that is revoked',
    async () => {
      const person = await memberOf('revoked');
      const [{ id = '' } = {}] = await person.json<Partial<rest.Session>[]>(
        'GET',
        '/v1/auth/sessions',
      );
      const other = await logIn(server, person.email);
      const lose = () => other.call('DELETE', `/v1/auth/sessions/${id}`);
      return { headers: bearer(person), lose };
    },
  ],
  [
    'a session that is logged out',
    async () => {
      const person = await memberOf('logout');
      return { headers: bearer(person), lose: () => person.call('POST', '/v1/auth/logout') };
    },
  ],
  [
    'a session that expires',
    async () => {
      const person = await memberOf('expired');
      const expire = `update sessions set expires_at = now() where user_id = $1`;
      return { headers: bearer(person), lose: () => fleet.database.query(expire, [person.id]) };
    },
  ],
  [
    'another session of a user who changes the password',
    async () => {
      const person = await memberOf('password');
      const other = await logIn(server, person.email);
      const change = { current_password: PASSWORD, new_password: `${PASSWORD}!` };
      const lose = () => other.call('POST', '/v1/me/password', change);
      return { headers: bearer(person), lose };
    },
  ],
  [
    'a member who is removed',
    async () => {
      const person = await memberOf('removed');
      return { headers: bearer(person), lose: () => removal(person) };
    },
  ],
  [
    'a member who leaves',
    async () => {
      const person = await memberOf('leaves');
      const lose = () => person.call('POST', `/v1/teams/${teamId}/leave`);
      return { headers: bearer(person), lose };
    },
  ],
  [
    'a user who is disabled',
    async () => {
      const person = await memberOf('disabled');
      const lose = () => owner.call('PATCH', `/v1/users/${person.id}`, { status: 'disabled' });
      return { headers: bearer(person), lose };
    },
  ],
  [
    'a user who deletes the account',
    async () => {
      const person = await memberOf('deleted');
      const lose = () => person.call('DELETE', '/v1/me', { confirmation: person.email });
      return { headers: bearer(person), lose };
    },
  ],
];

test.concurrent.each(LOSSES)('%s ends its streams', async (_, prepare) => {
  const box = await Box.create();
  const { headers, lose } = await prepare();
  const followed = await events(headers);
  const program = await webSocket(box, '/exec/stream', headers, SLEEP);
  await lose();
  await until(() => followed.ended !== undefined && program.ended !== undefined);
  expect(followed.ended).toBe('complete');
  expect(program.ended).toMatch(/^1008 (?:unauthorized|forbidden)$/);
  await until(async () => (await box.pids()).length === 0);
});

test('streams and long requests of every kind end, with what these run', async () => {
  const box = await Box.create();
  const { id, headers } = await keyOf(owner);
  const pid = await box.start('sleep', '600');
  const opened = {
    exec: await exec(box, headers),
    pty: await webSocket(box, '/pty', headers, { ...SLEEP, cols: 80, rows: 24 }),
    attached: await webSocket(box, `/processes/${pid}/stream`, headers),
    upload: upload(box, headers),
  };
  const downloaded = await download(box, headers);
  const others = await events({ 'x-api-key': server.apiKey });
  await owner.call('DELETE', `/v1/api-keys/${id}`);
  await until(() => Object.values(opened).every(({ ended }) => ended !== undefined));
  expect(opened.exec.ended).toBe('401 unauthorized');
  expect(opened.upload.ended).toBe('401 unauthorized');
  expect(opened.pty.ended).toBe('1008 unauthorized');
  expect(opened.attached.ended).toBe('1008 unauthorized');
  await expect(downloaded()).rejects.toThrow();
  // A terminal stays open, and a process that was attached to runs, as when a client disconnects.
  await until(async () => (await box.pids()).length === 2);
  expect(await box.pids()).toContain(pid);
  expect(others.ended).toBeUndefined();
  others.close();
});

test.concurrent('a lower role ends only what needs the higher one', async () => {
  const box = await Box.create();
  const admin = await invited(owner, teamId, 'admin', 'lower@example.com');
  const all = await events(bearer(admin));
  const program = await webSocket(box, '/exec/stream', bearer(admin), SLEEP);
  await owner.call('PATCH', `/v1/teams/${teamId}/members/${admin.id}`, { role: 'member' });
  await until(() => all.ended !== undefined);
  expect(program.ended).toBeUndefined();
  program.close();
});

test.concurrent('a team that is deleted, and an operator who is one no more', async () => {
  const person = await newUser(server, 'operator@example.com', true);
  const platform = { ...bearer(person), 'x-team-id': 'tm00000000000000000000' };
  const ofPlatform = await events(platform);
  const team = await person.json<rest.Team>('POST', '/v1/teams', { name: 'Short-lived' });
  const ofTeam = await events({ ...bearer(person), 'x-team-id': team.id });
  expect((await person.call('DELETE', `/v1/teams/${team.id}`)).status).toBe(204);
  await until(() => ofTeam.ended !== undefined);
  expect(ofPlatform.ended).toBeUndefined();
  await owner.call('PATCH', `/v1/users/${person.id}`, { is_admin: false });
  await until(() => ofPlatform.ended !== undefined);
});

test.concurrent('a client that reads nothing is disconnected all the same', async () => {
  const box = await Box.create();
  const { id, headers } = await keyOf(owner);
  const socket = new WebSocket(box.url('/exec/stream').replace('http', 'ws'), { headers });
  socket.on('error', () => undefined);
  await until(() => socket.readyState === WebSocket.OPEN);
  socket.send(JSON.stringify({ type: 'start', cmd: 'yes' }));
  await until(async () => (await box.pids()).length > 0);
  socket.pause();
  await owner.call('DELETE', `/v1/api-keys/${id}`);
  await until(async () => (await box.pids()).length === 0, 30_000);
  socket.terminate();
});
