import type { Command } from 'commander';
import type { CliContext } from '../cli-context.ts';
import { type CommonOptions, connectWithoutCredentials } from '../client/settings.ts';
import { json, line } from '../io.ts';
import { printStatus } from '../output/progress.ts';
import { table } from '../output/table.ts';
import { formatAge } from '../output/units.ts';
import { ANSWERS_ON_STANDARD_INPUT, Questions } from '../terminal/questions.ts';

export function registerAccount(cli: CliContext): void {
  const group = cli.group('account', 'your own account');
  registerSessions(cli, group);
  registerProfile(cli, group);
  registerIdentities(cli, group);
}

function registerSessions(cli: CliContext, group: Command): void {
  cli.command('sessions', 'list where you are logged in, newest first', group).action(
    cli.action(async (options: CommonOptions, _command: Command) => {
      await cli.withTorpor(options, async (torpor) => {
        const sessions = await torpor.account.sessions();
        if (options.json) return await json(cli.io, sessions);
        const rows = sessions.map(({ id, current, address, user_agent, last_used, expires_at }) => [
          current ? '*' : '',
          id,
          address ?? '',
          `${formatAge(last_used)} ago`,
          expires_at,
          user_agent ?? '',
        ]);
        const header = ['', 'ID', 'ADDRESS', 'USED', 'EXPIRES', 'PROGRAM'];
        await line(cli.io.stdout, table(header, rows));
      });
    }),
  );

  cli.command('revoke <session>', 'end another session of yours, by its id', group).action(
    cli.action(async (id: string, options: CommonOptions, _command: Command) => {
      await cli.withTorpor(options, async (torpor) => {
        await torpor.account.revokeSession(id);
        await (options.json ? json(cli.io, { revoked: id }) : line(cli.io.stdout, id));
      });
    }),
  );
}

function registerProfile(cli: CliContext, group: Command): void {
  cli
    .command('password', 'change your password, which ends your other sessions', group)
    .addHelpText('after', ANSWERS_ON_STANDARD_INPUT)
    .action(
      cli.action(async (options: CommonOptions, _command: Command) => {
        await cli.withTorpor(options, async (torpor) => {
          using questions = new Questions(cli.io);
          const { user } = await torpor.account.whoami();
          const current =
            user?.has_password === false
              ? undefined
              : await questions.askSecret('Current password');
          await torpor.account.changePassword(current, await questions.askSecret('New password'));
          if (options.json) return await json(cli.io, { password_set: true });
          printStatus(cli.io, 'The password is changed. All other sessions have ended.');
        });
      }),
    );

  cli.command('rename <name>', 'change your name', group).action(
    cli.action(async (name: string, options: CommonOptions, _command: Command) => {
      await cli.withTorpor(options, async (torpor) => {
        const user = await torpor.account.rename(name);
        if (options.json) await json(cli.io, user);
      });
    }),
  );

  cli.command('rm <email>', 'delete your account; its email address confirms that', group).action(
    cli.action(async (email: string, options: CommonOptions, _command: Command) => {
      await cli.withTorpor(options, async (torpor) => {
        await torpor.account.delete(email);
        if (options.json) await json(cli.io, { deleted: email });
        else await line(cli.io.stdout, email);
      });
    }),
  );
}

function registerIdentities(cli: CliContext, group: Command): void {
  cli.command('identities', 'list the logins of other services that are yours', group).action(
    cli.action(async (options: CommonOptions, _command: Command) => {
      await cli.withTorpor(options, async (torpor) => {
        const identities = await torpor.account.identities();
        if (options.json) return await json(cli.io, identities);
        const rows = identities.map(({ id, provider, label, last_used }) => [
          id,
          provider,
          label,
          last_used,
        ]);
        await line(cli.io.stdout, table(['ID', 'PROVIDER', 'ACCOUNT', 'LAST USED'], rows));
      });
    }),
  );

  cli
    .command('unlink <id>', 'remove a login of another service; a browser adds one: /login', group)
    .action(
      cli.action(async (id: string, options: CommonOptions, _command: Command) => {
        await cli.withTorpor(options, async (torpor) => {
          await torpor.account.unlinkIdentity(id);
          if (options.json) await json(cli.io, { unlinked: id });
        });
      }),
    );

  cli
    .command('reset-password <email>', 'have a link mailed that sets a new password', group)
    .action(
      cli.action(async (email: string, options: CommonOptions, _command: Command) => {
        await using torpor = await connectWithoutCredentials(cli.io, options);
        await torpor.account.requestPasswordReset(email);
        if (options.json) return await json(cli.io, { requested: true });
        printStatus(cli.io, 'If an account has this address, a link is on its way to it.');
      }),
    );
}
