import type { Command } from 'commander';
import type { CliContext } from '../cli-context.ts';
import { type CommonOptions, connectWithoutCredentials } from '../client/settings.ts';
import { json, line } from '../io.ts';
import { printStatus } from '../output/progress.ts';
import { table } from '../output/table.ts';

export function registerAccount(cli: CliContext): void {
  const group = cli.group('account', 'your own account');

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
