import type { Caller, LoggedIn, Torpor } from '@torpor/sdk';
import { TorporError } from '@torpor/sdk/basics';
import { type Command, Option } from 'commander';
import type { CliContext } from '../cli-context.ts';
import { readSession, removeSession, writeSession } from '../client/session-file.ts';
import { type CommonOptions, connectWithoutCredentials } from '../client/settings.ts';
import { json, line } from '../io.ts';
import { printStatus } from '../output/progress.ts';
import { ANSWERS_ON_STANDARD_INPUT, Questions } from '../terminal/questions.ts';

interface LoginOptions extends CommonOptions {
  readonly device?: boolean;
  readonly provider?: string;
  readonly signUp?: boolean;
}

export function registerLogin(cli: CliContext): void {
  cli
    .command('login [email]', 'log in with a password; commands then use the session until logout')
    .option('--device', 'log in with a browser, which may be on another machine')
    .option('--provider <id>', 'like --device, with a provider: github or oidc')
    .addOption(
      new Option('--sign-up', 'make an account first, where everyone may').conflicts([
        'device',
        'provider',
      ]),
    )
    .addHelpText('after', ANSWERS_ON_STANDARD_INPUT)
    .action(
      cli.action(async (email: string | undefined, options: LoginOptions, _command: Command) => {
        if (options.device || options.provider !== undefined) return logInWithBrowser(cli, options);
        using questions = new Questions(cli.io);
        const address = email ?? (await questions.ask('Email address'));
        const name = options.signUp ? await questions.ask('Your name') : undefined;
        const password = await questions.askSecret('Password');
        await using torpor = await connectWithoutCredentials(cli.io, options);
        const credentials = { email: address, password };
        const started = await (name === undefined
          ? torpor.account.login(credentials)
          : torpor.account.signUp({ ...credentials, name }));
        await keep(cli, torpor, started, options);
      }),
    );
}

/** The user approves on a page of the server; how the user logs in there is no matter here. */
async function logInWithBrowser(cli: CliContext, options: LoginOptions): Promise<void> {
  const { io } = cli;
  await using torpor = await connectWithoutCredentials(io, options);
  const provider = await findProvider(torpor, options.provider);
  const device = await torpor.account.startDeviceLogin();
  const how = provider === undefined ? 'log in' : `log in with ${provider}`;
  await line(io.stderr, `Open ${device.url} in a browser, ${how}, and enter the code`);
  await line(io.stderr, `\n    ${device.userCode}\n`);
  await line(io.stderr, 'Approve only if the page shows this code and this machine.');
  await keep(cli, torpor, await device.session(), options);
}

/** Its name. Throws `not_found`. */
async function findProvider(torpor: Torpor, id: string | undefined): Promise<string | undefined> {
  if (id === undefined) return undefined;
  const { providers } = await torpor.account.loginOptions();
  const provider = providers.find((candidate) => candidate.id === id);
  if (provider !== undefined) return provider.name;
  const known = providers.map((candidate) => candidate.id).join(', ') || 'none';
  throw new TorporError('not_found', `Users cannot log in with ${id} here.`, {
    remedy: `The providers of the server: ${known}. Without --provider any way to log in will do.`,
  });
}

export function registerJoin(cli: CliContext): void {
  cli
    .command('join', 'use a link: an invitation to a team, or one that sets your password')
    .addHelpText('after', ANSWERS_ON_STANDARD_INPUT)
    .action(
      cli.action(async (options: CommonOptions, _command: Command) => {
        using questions = new Questions(cli.io);
        const { apiUrl, token } = parseLink(await questions.askSecret('Link'));
        const at = { ...options, apiUrl: options.apiUrl ?? apiUrl };
        await using torpor = await connectWithoutCredentials(cli.io, at);
        if (token.startsWith('tpp_')) {
          await torpor.account.setPassword(token, await questions.askSecret('New password'));
          if (options.json) return await json(cli.io, { password_set: true });
          return printStatus(cli.io, 'The password is set. `torpor login` begins a session.');
        }
        await accept(cli, torpor, questions, token, at);
      }),
    );
}

export function registerLogout(cli: CliContext): void {
  cli.command('logout', 'end the session of torpor login').action(
    cli.action(async (options: CommonOptions, _command: Command) => {
      const session = await readSession(cli.io);
      if (session === undefined) {
        throw new TorporError('conflict', 'Nobody is logged in.');
      }
      const { Torpor } = await import('@torpor/sdk');
      await using torpor = new Torpor({ apiUrl: session.apiUrl, sessionToken: session.token });
      await torpor.account.logout().catch((error: unknown) => {
        // It has ended already.
        if (TorporError.from(error).code !== 'unauthorized') throw error;
      });
      await removeSession(cli.io);
      if (options.json) await json(cli.io, { logged_out: true });
    }),
  );
}

export function registerWhoami(cli: CliContext): void {
  cli.command('whoami', 'print who you are, in which team, and what you may do').action(
    cli.action(async (options: CommonOptions, _command: Command) => {
      await cli.withTorpor(options, async (torpor) => {
        const caller = await torpor.account.whoami();
        if (options.json) return await json(cli.io, caller);
        for (const text of describe(caller)) await line(cli.io.stdout, text);
      });
    }),
  );
}

/** Accepts an invitation as the user who is logged in, or with a new account. */
async function accept(
  cli: CliContext,
  torpor: Torpor,
  questions: Questions,
  invitation: string,
  options: CommonOptions,
): Promise<void> {
  const { team_name: name, role } = await torpor.teams.previewInvitation(invitation);
  const session = await readSession(cli.io);
  if (session?.apiUrl === torpor.apiUrl) {
    await cli.withTorpor({ ...options, apiUrl: torpor.apiUrl }, async (own) => {
      const teamId = await own.teams.acceptInvitation(invitation);
      if (options.json) return await json(cli.io, { team_id: teamId });
      printStatus(cli.io, `You are in ${name} as ${role}. \`torpor team switch\` chooses a team.`);
    });
    return;
  }
  printStatus(cli.io, `An invitation to ${name} as ${role}. This makes an account for it.`);
  const started = await torpor.account.signUp({
    invitation,
    email: await questions.ask('Email address'),
    name: await questions.ask('Your name'),
    password: await questions.askSecret('Password'),
  });
  await keep(cli, torpor, started, options);
}

async function keep(
  { io }: CliContext,
  torpor: Torpor,
  { user, token, teamId, expiresAt }: LoggedIn,
  options: CommonOptions,
): Promise<void> {
  await writeSession(io, { apiUrl: torpor.apiUrl, token });
  if (options.json) {
    return await json(io, { user, team_id: teamId, expires_at: expiresAt.toISOString() });
  }
  printStatus(io, `Logged in to ${torpor.apiUrl} as ${user.email}.`);
}

function* describe({ user, api_key: key, team, permissions }: Caller): Generator<string> {
  if (user !== undefined) yield `user         ${user.email} (${user.name}, ${user.id})`;
  if (key !== undefined) yield `API key      ${key.name} (${key.id})`;
  const role = team?.role === undefined ? '' : `, as ${team.role}`;
  yield `team         ${team === undefined ? 'none' : `${team.name} (${team.id})${role}`}`;
  yield `permissions  ${permissions.join(', ')}`;
}

function parseLink(link: string): { readonly apiUrl: string; readonly token: string } {
  const url = URL.parse(link.trim());
  const token = url?.hash.slice(1) ?? '';
  if (url !== null && /^tp[ip]_/.test(token)) return { apiUrl: url.origin, token };
  throw new TorporError('invalid_request', 'This is not a link of an invitation or a password.', {
    remedy: 'It has the form https://SERVER/join#tpi_…',
  });
}
