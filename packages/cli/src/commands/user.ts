import type { Torpor, User } from '@torpor/sdk';
import { TorporError } from '@torpor/sdk/basics';
import type { Command } from 'commander';
import type { CliContext } from '../cli-context.ts';
import type { CommonOptions } from '../client/settings.ts';
import { json, line } from '../io.ts';
import { printStatus } from '../output/progress.ts';
import { table } from '../output/table.ts';

interface CreateOptions extends CommonOptions {
  readonly name?: string;
  readonly admin?: boolean;
}

export function registerUser(cli: CliContext): void {
  const group = cli.group('user', 'the accounts of all users, for operators of the platform');

  cli
    .command('create <email>', 'make an account, and print a link that sets its password', group)
    .option('--admin', 'make the user an operator of the platform')
    .option('--name <name>', 'name of the user (default: from the email address)')
    .addHelpText(
      'after',
      '\nThe first user becomes the owner of the team of this server. `torpor join` uses the link, once.',
    )
    .action(
      cli.action(async (email: string, options: CreateOptions, _command: Command) => {
        const { name, admin } = options;
        await cli.withTorpor(options, async (torpor) => {
          const user = await torpor.users.create(email, { name, isAdmin: admin });
          if (options.json) return await json(cli.io, user);
          await line(cli.io.stdout, user.link);
          printStatus(cli.io, `It expires at ${user.expires_at}. \`torpor join\` uses it.`);
        });
      }),
    );

  cli.command('ls', 'list all users', group, { isDefault: true }).action(
    cli.action(async (options: CommonOptions, _command: Command) => {
      await cli.withTorpor(options, async (torpor) => {
        const users = await torpor.users.list();
        if (options.json) return await json(cli.io, users);
        const rows = users.map(({ id, email, name, is_admin, status }) => [
          id,
          email,
          name,
          is_admin ? 'yes' : 'no',
          status,
        ]);
        await line(cli.io.stdout, table(['ID', 'EMAIL', 'NAME', 'OPERATOR', 'STATUS'], rows));
      });
    }),
  );

  cli
    .command('link <user>', 'print a link with which a user sets a new password, once', group)
    .action(
      cli.action(async (user: string, options: CommonOptions, _command: Command) => {
        await cli.withTorpor(options, async (torpor) => {
          const { id } = await findUser(torpor, user);
          const link = await torpor.users.createPasswordLink(id);
          if (options.json) await json(cli.io, link);
          else await line(cli.io.stdout, link.link);
        });
      }),
    );

  const changes = [
    ['disable', 'end all sessions and revoke all API keys of a user', { status: 'disabled' }],
    ['enable', 'let a user log in again', { status: 'active' }],
    ['promote', 'make a user an operator of the platform', { isAdmin: true }],
    ['demote', 'take that from a user', { isAdmin: false }],
  ] as const;
  for (const [name, description, change] of changes) {
    cli.command(`${name} <user>`, `${description}; by email or id`, group).action(
      cli.action(async (user: string, options: CommonOptions, _command: Command) => {
        await cli.withTorpor(options, async (torpor) => {
          const { id } = await findUser(torpor, user);
          const changed = await torpor.users.update(id, change);
          if (options.json) await json(cli.io, changed);
        });
      }),
    );
  }
}

async function findUser(torpor: Torpor, idOrEmail: string): Promise<User> {
  const users = await torpor.users.list();
  const address = idOrEmail.toLowerCase();
  const found = users.find(({ id, email }) => id === idOrEmail || email === address);
  if (found !== undefined) return found;
  throw new TorporError('not_found', `There is no user ${JSON.stringify(idOrEmail)}.`);
}
