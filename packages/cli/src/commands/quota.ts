import type { QuotaList } from '@torpor/sdk';
import { isQuotaName, QUOTA_NAMES } from '@torpor/sdk/basics';
import { type Command, InvalidArgumentError } from 'commander';
import type { CliContext } from '../cli-context.ts';
import type { CommonOptions } from '../client/settings.ts';
import { json, line } from '../io.ts';
import { table } from '../output/table.ts';

interface ListOptions extends CommonOptions {
  readonly team?: string;
}

type Limit = number | null | 'default';

export function registerQuota(cli: CliContext): void {
  const quotas = cli.group('quota', 'show what the team has and may have');
  const print = (list: QuotaList, options: CommonOptions) =>
    options.json ? json(cli.io, list) : line(cli.io.stdout, asTable(list));

  cli
    .command('ls', 'list the quotas and what is used of them', quotas, { isDefault: true })
    .option('--team <id>', 'those of another team, for who operates the platform')
    .action(
      cli.action(async (options: ListOptions, _command: Command) => {
        await cli.withTorpor(options, async (torpor) =>
          print(await torpor.quotas.get(options.team), options),
        );
      }),
    );

  cli
    .command('set <team>', 'change what a team may have, for who operates the platform', quotas)
    .argument('<quotas...>', 'NAME=N, NAME=unlimited or NAME=default', collect)
    .addHelpText('after', `\nThe names are ${QUOTA_NAMES.join(', ')}.`)
    .action(
      cli.action(
        async (
          team: string,
          changes: Record<string, Limit>,
          options: CommonOptions,
          _command: Command,
        ) => {
          await cli.withTorpor(options, async (torpor) =>
            print(await torpor.quotas.set(team, changes), options),
          );
        },
      ),
    );
}

function asTable({ items }: QuotaList): string {
  const rows = items.map(({ name, used, limit, is_default }) => [
    name,
    String(used),
    limit === null ? 'unlimited' : String(limit),
    is_default ? 'the platform' : 'the team',
  ]);
  return table(['QUOTA', 'USED', 'LIMIT', 'SET FOR'], rows);
}

function collect(text: string, before: Record<string, Limit> | undefined): Record<string, Limit> {
  const [name = '', limit = ''] = text.split('=', 2);
  if (!isQuotaName(name)) {
    throw new InvalidArgumentError(`The names of quotas are ${QUOTA_NAMES.join(', ')}.`);
  }
  return { ...before, [name]: parseLimit(limit) };
}

function parseLimit(text: string): Limit {
  if (text === 'default') return text;
  if (text === 'unlimited') return null;
  if (/^\d{1,15}$/.test(text)) return Number(text);
  throw new InvalidArgumentError('A quota is a whole number, `unlimited` or `default`.');
}
