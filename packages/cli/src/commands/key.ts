import type { Permission } from '@torpor/sdk';
import { isPermission, PERMISSION_NAMES } from '@torpor/sdk/basics';
import { type Command, InvalidArgumentError } from 'commander';
import { duration } from '../arguments.ts';
import type { CliContext } from '../cli-context.ts';
import type { CommonOptions } from '../client/settings.ts';
import { json, line } from '../io.ts';
import { printStatus } from '../output/progress.ts';
import { table } from '../output/table.ts';
import { formatAge } from '../output/units.ts';

interface CreateOptions extends CommonOptions {
  readonly scopes?: Permission[];
  readonly expires?: number;
}

export function registerKey(cli: CliContext): void {
  const keys = cli.group('key', 'create, list and revoke API keys of the team');

  cli
    .command('create <name>', 'create an API key and print it; it cannot be shown again', keys)
    .option(
      '-s, --scopes <scopes>',
      'what the key may do, separated by commas (default: what a member of the team may do)',
      scopes,
    )
    .option('--expires <time>', 'how long the key is valid, e.g. 30d (default: no limit)', duration)
    .addHelpText('after', `\nThe scopes are ${PERMISSION_NAMES.join(', ')}.`)
    .action(
      cli.action(async (name: string, options: CreateOptions, _command: Command) => {
        const { expires } = options;
        await cli.withTorpor(options, async (torpor) => {
          const created = await torpor.apiKeys.create(name, {
            scopes: options.scopes,
            expiresAt: expires === undefined ? undefined : new Date(Date.now() + expires),
          });
          if (options.json) return await json(cli.io, created);
          await line(cli.io.stdout, created.key);
          printStatus(cli.io, `${created.id} can do: ${created.scopes.join(', ')}`);
        });
      }),
    );

  cli.command('ls', 'list the API keys, newest first', keys, { isDefault: true }).action(
    cli.action(async (options: CommonOptions, _command: Command) => {
      await cli.withTorpor(options, async (torpor) => {
        const listed = await torpor.apiKeys.list();
        if (options.json) return await json(cli.io, listed);
        const rows = listed.map((key) => [
          key.id,
          key.name,
          `${key.key_prefix}…`,
          key.last_used === undefined ? 'never' : `${formatAge(key.last_used)} ago`,
          key.expires_at ?? 'never',
          key.scopes.join(','),
        ]);
        const header = ['ID', 'NAME', 'KEY', 'USED', 'EXPIRES', 'SCOPES'];
        await line(cli.io.stdout, table(header, rows));
      });
    }),
  );

  cli
    .command('rm <ids...>', 'revoke API keys; they are refused from the next request on', keys)
    .action(
      cli.action(async (ids: string[], options: CommonOptions, _command: Command) => {
        await cli.withTorpor(options, async (torpor) => {
          for (const id of new Set(ids)) {
            await torpor.apiKeys.revoke(id);
            if (!options.json) await line(cli.io.stdout, id);
          }
          if (options.json) await json(cli.io, { revoked: ids });
        });
      }),
    );
}

function scopes(text: string): Permission[] {
  return text.split(',').map((name) => {
    if (isPermission(name)) return name;
    throw new InvalidArgumentError(`The scopes are ${PERMISSION_NAMES.join(', ')}.`);
  });
}
