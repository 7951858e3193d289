import { text } from 'node:stream/consumers';
import type { rest } from '@torpor/protocol';
import {
  errorOf,
  Fleet,
  logIn,
  type Member,
  newUser,
  PASSWORD,
  request,
  until,
} from '@torpor/testkit/control-plane';
import { SMTPServer } from 'smtp-server';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { ControlPlane } from '../control-plane.ts';

interface Received {
  readonly to: string;
  readonly content: string;
}

/** A mail server that keeps what it gets. */
class Mailbox implements AsyncDisposable {
  readonly received: Received[] = [];
  /** Called for each recipient; an error with a `responseCode` refuses it. */
  refuse: (to: string) => (Error & { responseCode: number }) | undefined = () => undefined;
  readonly #server: SMTPServer;
  port = 0;

  constructor() {
    this.#server = new SMTPServer({
      authOptional: true,
      disabledCommands: ['STARTTLS', 'AUTH'],
      onRcptTo: ({ address }, _session, done) => done(this.refuse(address) ?? null),
      onData: (stream, session, done) => {
        const to = session.envelope.rcptTo.map(({ address }) => address).join();
        void text(stream).then((content) => {
          this.received.push({ to, content: decoded(content) });
          done();
        });
      },
    });
  }

  async listen(): Promise<void> {
    await new Promise<void>((resolve) => this.#server.listen(this.port, '127.0.0.1', resolve));
    const address = this.#server.server.address();
    this.port = typeof address === 'object' ? (address?.port ?? 0) : 0;
  }

  to(address: string): Received[] {
    return this.received.filter(({ to }) => to === address);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await new Promise<void>((resolve) => this.#server.close(resolve));
  }
}

/** Quoted-printable: soft line breaks, and bytes of ASCII. */
function decoded(content: string): string {
  return content
    .replaceAll('=\r\n', '')
    .replaceAll(/=([0-9A-F]{2})/g, (_, hex: string) =>
      String.fromCharCode(Number.parseInt(hex, 16)),
    );
}

const PUBLIC_URL = 'https://torpor.test';
const mailTiming = { pollIntervalMs: 50, firstRetryMs: 20, longestRetryMs: 100, maxAttempts: 4 };

let fleet: Fleet;
let mailbox: Mailbox;
/** One of two control planes, which send mail. */
let member: Member;
let controlPlane: ControlPlane;
beforeAll(async () => {
  fleet = await Fleet.open();
  mailbox = new Mailbox();
  await mailbox.listen();
  const smtpUrl = `smtp://127.0.0.1:${mailbox.port}`;
  const mail = { smtpUrl, from: 'Torpor <torpor@torpor.test>' };
  const options = { mail, mailTiming, publicUrl: PUBLIC_URL, signUpOpen: true };
  member = await fleet.join(options);
  await fleet.join(options);
  ({ controlPlane } = member);
});
afterAll(async () => {
  await fleet[Symbol.asyncDispose]();
  await mailbox[Symbol.asyncDispose]();
});

async function mails(
  recipient = '%',
): Promise<{ kind: string; state: string; sealed: string | null; attempts: number }[]> {
  const { rows } = await fleet.database.query(
    'select kind, state, sealed, attempts, last_error from mails where recipient like $1 order by id',
    [recipient],
  );
  return rows;
}

const reset = ({ controlPlane }: Member, email: string, headers = {}) =>
  request(controlPlane, 'POST', '/v1/auth/password-reset', { email }, headers);

const linkIn = ({ content }: Received) => /https?:\/\/\S+#\S+/.exec(content)?.[0] ?? '';

describe('a password reset', () => {
  test('sends a link of the public URL, which works once', async () => {
    const ada = await newUser(controlPlane, 'ada@example.com');
    const response = await reset(member, ' ADA@example.com', { host: 'evil.test' });
    expect(response.status).toBe(202);
    await until(() =>
      mailbox.to(ada.email).some(({ content }) => content.includes('new password')),
    );
    const mail = mailbox
      .to(ada.email)
      .find(({ content }) => content.includes('Set a new password'));
    const link = linkIn(mail as Received);
    expect(link).toMatch(/^https:\/\/torpor\.test\/password#tpp_/);
    expect(mail?.content).toMatch(
      /^From: Torpor <torpor@torpor\.test>\r\nTo: ada@example\.com\r$/m,
    );
    expect(mail?.content).toContain('Auto-Submitted: auto-generated');
    const body = { token: link.split('#')[1], new_password: 'another password' };
    expect((await request(controlPlane, 'POST', '/v1/auth/password', body)).status).toBe(204);
    expect((await request(controlPlane, 'POST', '/v1/auth/password', body)).status).toBe(404);
    expect((await ada.call('GET', '/v1/me')).status).toBe(401);
    await logIn(controlPlane, ada.email, 'another password');
    await until(() => mailbox.to(ada.email).some(({ content }) => content.includes('was changed')));
    const token = link.split('#')[1] ?? '';
    expect(fleet.log()).not.toContain(token);
    expect(JSON.stringify(await mails())).not.toContain(token);
  });

  test('has the same response, and sends nothing, without an account and for one that is disabled', async () => {
    const eve = await newUser(controlPlane, 'eve@example.com');
    await until(async () => (await mails()).every(({ state }) => state === 'sent'));
    const key = { 'x-api-key': controlPlane.apiKey };
    await request(controlPlane, 'PATCH', `/v1/users/${eve.id}`, { status: 'disabled' }, key);
    const before = mailbox.received.length;
    const responses = [await reset(member, eve.email), await reset(member, 'nobody@example.com')];
    for (const response of responses) {
      expect([response.status, await response.text()]).toEqual([202, '']);
    }
    await until(async () => (await mails('nobody%')).length === 1);
    await until(async () => (await mails()).every(({ state }) => state !== 'pending'));
    expect(mailbox.received.length).toBe(before);
  });

  test('is sent to one address three times an hour, without saying so', async () => {
    for (let index = 0; index < 5; index += 1) {
      expect((await reset(member, 'bob@example.com')).status).toBe(202);
    }
    expect(
      (await mails('bob@example.com')).filter(({ kind }) => kind === 'password_reset'),
    ).toHaveLength(3);
  });
});

test('an invitation is mailed to its address, and to nobody without one', async () => {
  const ada = await newUser(controlPlane, 'cat@example.com');
  const team = await ada.json<rest.Team>('POST', '/v1/teams', { name: 'Rocket <b>https' });
  const path = `/v1/teams/${team.id}/invitations`;
  const mailed = await ada.json<rest.CreatedInvitation>('POST', path, { email: 'new@example.com' });
  const plain = await ada.json<rest.CreatedInvitation>('POST', path, {});
  expect([mailed.mailed, plain.mailed]).toEqual([true, false]);
  await until(() => mailbox.to('new@example.com').length === 1);
  const [mail] = mailbox.to('new@example.com');
  expect(linkIn(mail as Received)).toBe(mailed.link);
  expect(mail?.content).toContain('team "Rocket <b>https"');
  expect(mail?.content).toMatch(/Content-Type: text\/plain/);
  const invitation = mailed.link.split('#')[1];
  const account = { email: 'new@example.com', name: 'N', password: PASSWORD, invitation };
  expect((await request(controlPlane, 'POST', '/v1/auth/signup', account)).status).toBe(201);
});

test('of two control planes one sends each mail', async () => {
  const ada = await newUser(controlPlane, 'dan@example.com');
  const team = await ada.json<rest.Team>('POST', '/v1/teams', { name: 'Team' });
  const addresses = Array.from({ length: 20 }, (_, index) => `user${index}@example.com`);
  for (const email of addresses) {
    await ada.json('POST', `/v1/teams/${team.id}/invitations`, { email });
  }
  await until(async () => (await mails()).every(({ state }) => state === 'sent'));
  for (const email of addresses) expect(mailbox.to(email), email).toHaveLength(1);
});

test('mail waits for a server that is down, without delaying a request', async () => {
  await mailbox[Symbol.asyncDispose]();
  const { port } = mailbox;
  await newUser(member.controlPlane, 'fay@example.com');
  await reset(member, 'fay@example.com');
  await until(() => fleet.log().includes('Mail could not be sent; will retry'));
  mailbox = new Mailbox();
  mailbox.port = port;
  await mailbox.listen();
  await until(() => mailbox.to('fay@example.com').some(({ content }) => content.includes('#tpp_')));
});

test('mail that is refused for good is given up at once, and other mail after a few attempts', async () => {
  const refused = (responseCode: number) => Object.assign(new Error('no'), { responseCode });
  mailbox.refuse = (to) =>
    to.startsWith('gone') ? refused(550) : to.startsWith('later') ? refused(451) : undefined;
  const ada = await newUser(controlPlane, 'gus@example.com');
  const team = await ada.json<rest.Team>('POST', '/v1/teams', { name: 'Team' });
  for (const email of ['gone@example.com', 'later@example.com', 'well@example.com']) {
    await ada.json('POST', `/v1/teams/${team.id}/invitations`, { email });
  }
  await until(async () => (await mails()).every(({ state }) => state !== 'pending'));
  expect([
    ...(await mails('gone%')),
    ...(await mails('later%')),
    ...(await mails('well%')),
  ]).toMatchObject([
    { state: 'dead', attempts: 1, sealed: null, last_error: expect.stringContaining('550') },
    { state: 'dead', attempts: mailTiming.maxAttempts, sealed: null },
    { state: 'sent', attempts: 1, sealed: null, last_error: null },
  ]);
  expect(fleet.log()).toContain('Mail given up');
});

test('users are told of a password that is tried too often', async () => {
  await newUser(controlPlane, 'hal@example.com');
  for (let index = 0; index < 11; index += 1) {
    const body = { email: 'hal@example.com', password: 'wrong' };
    await request(controlPlane, 'POST', '/v1/auth/login', body);
  }
  await until(() =>
    mailbox.to('hal@example.com').some(({ content }) => content.includes('too often')),
  );
});

// The last one, since this control plane would take events, and send no notices of them.
test('a password reset is not possible without a mail server', async () => {
  const silent = await fleet.join();
  expect(await errorOf(await reset(silent, 'none@example.com'))).toMatchObject({
    status: 501,
    code: 'not_implemented',
  });
});
