import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Torpor } from '@torpor/sdk';
import { type CliInput, cli } from '@torpor/testkit/cli';
import { type Harness, logIn, startHarness } from '@torpor/testkit/control-plane';
import { afterAll, beforeAll, expect, test } from 'vitest';

const PASSWORD = 'a long password of mine';

let harness: Harness;
let homes: string;
beforeAll(async () => {
  harness = await startHarness();
  homes = await mkdtemp(join(tmpdir(), 'torpor-homes-'));
});
afterAll(async () => {
  await rm(homes, { recursive: true });
  await harness[Symbol.asyncDispose]();
});

/** As the operator, with the key of the data directory. */
function operator(args: readonly string[], input: CliInput = {}) {
  return cli(args, { ...input, env: { TORPOR_DATA_DIR: harness.dataDir } });
}

/** As a user of another machine, with a home directory and no data directory. */
function at(home: string, args: readonly string[], ...lines: string[]) {
  const env = {
    HOME: join(homes, home),
    TORPOR_DATA_DIR: join(homes, 'none'),
    TORPOR_API_URL: harness.controlPlane.url,
  };
  return cli(args, { env, stdin: lines.map((text) => `${text}\n`).join('') });
}

async function ok(result: Promise<{ exitCode: number; stdout: string; stderr: string }>) {
  const { exitCode, stdout, stderr } = await result;
  expect(exitCode, stderr).toBe(0);
  return stdout;
}

test('from the first operator to a member who is removed', async () => {
  const link = (await ok(operator(['user', 'create', 'ada@example.com', '--admin']))).trim();
  expect(link).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/password#tpp_/);
  const short = await at('ada', ['join'], link, 'short');
  expect(short.stderr).toContain('The new password must have at least 8 characters');
  await ok(at('ada', ['join'], link, PASSWORD));
  const again = await at('ada', ['join'], link, PASSWORD);
  expect(again.stderr).toContain('was used');

  expect((await at('ada', ['whoami'])).stderr).toContain('torpor login');
  const wrong = await at('ada', ['login', 'ada@example.com'], 'wrong password');
  expect(wrong.stderr).toContain('password is wrong');
  await ok(at('ada', ['login'], 'ada@example.com', PASSWORD));
  const file = join(homes, 'ada/.config/torpor/session.json');
  expect((await stat(file)).mode & 0o777).toBe(0o600);
  expect(await ok(at('ada', ['whoami']))).toMatch(/ada@example\.com .*\n.*Default .*as owner/);
  expect(await ok(at('ada', ['user']))).toMatch(/ada@example\.com +ada +yes +active/);

  const invitation = (await ok(at('ada', ['team', 'invite', '--role', 'admin']))).trim();
  await ok(at('bob', ['join'], invitation, 'bob@example.com', 'Bob', PASSWORD));
  expect(await ok(at('bob', ['whoami']))).toContain('as admin');
  expect(await ok(at('bob', ['team', 'members']))).toMatch(/bob@example\.com +Bob +admin/);
  expect(await ok(at('bob', ['ls']))).not.toContain('error');
  expect((await at('bob', ['user', 'ls'])).stderr).toContain('platform');
  await ok(at('ada', ['team', 'role', 'bob@example.com', 'member']));
  expect((await at('bob', ['key', 'ls'])).stderr).toContain('keys.read');
  await ok(at('ada', ['team', 'remove', 'bob@example.com']));
  expect((await at('bob', ['ls'])).stderr).toContain('no team');

  const other = (await ok(at('bob', ['team', 'create', 'Own']))).trim();
  await ok(at('bob', ['team', 'switch', 'Own']));
  await ok(at('bob', ['team', 'rename', 'Mine']));
  expect(await ok(at('bob', ['team']))).toMatch(new RegExp(`^\\* +${other} +Mine +owner`, 'm'));
  // Who is logged in accepts an invitation with the same account.
  const second = (await ok(at('ada', ['team', 'invite', '--email', 'bob@example.com']))).trim();
  expect(await ok(at('ada', ['team', 'invitations']))).toContain('bob@example.com');
  await ok(at('bob', ['join'], second));
  expect(await ok(at('bob', ['team']))).toMatch(/Default +member/);
  expect(await ok(at('bob', ['team', 'rm', 'Mine']))).toContain(other);

  await ok(at('ada', ['user', 'disable', 'bob@example.com']));
  expect((await at('bob', ['whoami'])).stderr).toContain('Log in again');
  await ok(at('bob', ['logout']));
  await ok(at('ada', ['logout']));
  await expect(readFile(file)).rejects.toMatchObject({ code: 'ENOENT' });
  expect((await at('ada', ['logout'])).stderr).toContain('Nobody is logged in');
});

test('an account of one’s own: made, renamed, with another password, sessions that end, deleted', async () => {
  const open = await startHarness({ signUpOpen: true });
  try {
    const from = (home: string, args: readonly string[], ...lines: string[]) =>
      at(home, [...args, '--api-url', open.controlPlane.url], ...lines);
    const eve = 'eve@example.com';
    await ok(from('eve', ['login', eve, '--sign-up'], 'Eve', PASSWORD));
    await ok(from('eve2', ['login', eve], PASSWORD));
    await ok(from('eve', ['account', 'rename', 'Eva']));
    expect(await ok(from('eve', ['whoami']))).toContain('(Eva, ');
    const sessions = JSON.parse(await ok(from('eve', ['account', 'sessions', '--json'])));
    expect(sessions).toMatchObject([{ current: false }, { current: true }]);
    expect(await ok(from('eve', ['account', 'sessions']))).toMatch(
      /^\* +se\S+ +127\.0\.0\.1 .*Torpor on \S+$/m,
    );
    await ok(from('eve', ['account', 'revoke', sessions[0].id]));
    expect((await from('eve2', ['whoami'])).stderr).toContain('Log in again');
    const wrong = await from('eve', ['account', 'password'], 'wrong', `${PASSWORD}2`);
    expect(wrong.stderr).toContain('The current password is wrong');
    await ok(from('eve', ['account', 'password'], PASSWORD, `${PASSWORD}2`));
    await ok(from('eve2', ['login', eve], `${PASSWORD}2`));
    expect((await from('eve', ['account', 'rm', eve])).stderr).toContain('own');
    const [{ id: team }] = JSON.parse(await ok(from('eve', ['team', '--json'])));
    await ok(from('eve', ['team', 'rm', team]));
    expect(await ok(from('eve', ['account', 'rm', eve]))).toBe(`${eve}\n`);
    expect((await from('eve2', ['whoami'])).stderr).toContain('Log in again');
  } finally {
    await open[Symbol.asyncDispose]();
  }
  const closed = await at('mallory', ['login', 'm@example.com', '--sign-up'], 'M', PASSWORD);
  expect(closed.stderr).toContain('Only those who are invited');
});

test('the key of the data directory works without an account, and a key that is set counts before a session', async () => {
  expect(await ok(operator(['whoami']))).toContain('API key      local');
  const link = (await ok(operator(['user', 'create', 'eve@example.com']))).trim();
  await ok(at('eve', ['join'], link, PASSWORD));
  await ok(at('eve', ['login', 'eve@example.com'], PASSWORD));
  expect(await ok(at('eve', ['whoami']))).toContain('eve@example.com');
  const key = ['--api-key', harness.controlPlane.apiKey];
  expect(await ok(at('eve', ['whoami', ...key]))).toContain('local');
  const elsewhere = await at('eve', ['whoami', '--api-url', 'http://127.0.0.1:9']);
  expect(elsewhere.stderr).toContain('No API key is set');
});

test('the SDK uses a session, in the team that is named', async () => {
  await using local = new Torpor({
    apiUrl: harness.controlPlane.url,
    apiKey: harness.controlPlane.apiKey,
  });
  const { link } = await local.users.create('sdk@example.com', { name: 'S' });
  await local.account.setPassword(new URL(link).hash.slice(1), PASSWORD);
  const login = { email: 'sdk@example.com', password: PASSWORD };
  const { token, user } = await local.account.login(login);
  await using torpor = new Torpor({ apiUrl: harness.controlPlane.url, sessionToken: token });
  expect((await torpor.account.whoami()).user).toEqual(user);
  const { id: teamId } = await torpor.teams.create('Lab');
  const options = { apiUrl: harness.controlPlane.url, sessionToken: token, teamId };
  await using lab = new Torpor(options);
  expect((await lab.account.whoami()).team).toMatchObject({ name: 'Lab', role: 'owner' });
  const sandbox = await lab.sandboxes.create();
  expect(await Array.fromAsync(torpor.sandboxes.list())).toEqual([]);
  await sandbox.destroy();
  await expect(lab.account.changePassword(PASSWORD, 'short')).rejects.toMatchObject({
    message: expect.stringContaining('newPassword'),
  });
  await torpor.account.logout();
  await expect(lab.account.whoami()).rejects.toMatchObject({ code: 'unauthorized' });
});

test.each([
  [['login', 'a@example.com'], [''], 'Password'],
  [['login', 'ada'], ['some password'], 'The email address must have the form name@example.com'],
  [['join'], ['not a link'], 'not a link'],
  [['join'], ['https://evil.test/#tps_x'], 'not a link'],
  [['team', 'role', 'x', 'king'], [], 'owner, admin and member'],
])('%j is refused', async (args, lines, what) => {
  const { exitCode, stderr } = await cli(args, {
    env: { TORPOR_DATA_DIR: harness.dataDir },
    stdin: lines.map((text) => `${text}\n`).join(''),
  });
  expect(exitCode).not.toBe(0);
  expect(stderr).toContain(what);
});

test('a login that is approved in a browser', async () => {
  const link = (await ok(operator(['user', 'create', 'web@example.com']))).trim();
  await ok(at('web', ['join'], link, PASSWORD));
  const { token } = await logIn(harness.controlPlane, 'web@example.com', PASSWORD);
  const shown = Promise.withResolvers<string>();
  const unknown = await at('web', ['login', '--provider', 'github']);
  expect(unknown.stderr).toContain('Users cannot log in with github here');
  const login = cli(['login', '--device'], {
    env: {
      HOME: join(homes, 'web'),
      TORPOR_DATA_DIR: join(homes, 'none'),
      TORPOR_API_URL: harness.controlPlane.url,
    },
    onStderr: (text: string) => {
      const [code] = /[A-Z]{4}-[A-Z]{4}/.exec(text) ?? [];
      if (code !== undefined) shown.resolve(code);
    },
  });
  const form = new URLSearchParams({ user_code: await shown.promise, decision: 'approved' });
  const origin = harness.controlPlane.url;
  const approved = await fetch(`${origin}/device/decision`, {
    method: 'POST',
    body: form,
    headers: { origin, cookie: `torpor_session=${token}` },
  });
  expect(approved.status).toBe(200);
  await ok(login);
  expect(await ok(at('web', ['whoami']))).toContain('web@example.com');
  expect(await ok(at('web', ['account', 'identities']))).toContain('PROVIDER');
  const mail = await at('web', ['account', 'reset-password', 'web@example.com']);
  expect(mail.stderr).toContain('sends no mail');
});
