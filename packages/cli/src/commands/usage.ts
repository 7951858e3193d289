import type { Usage } from '@torpor/sdk';
import { type Command, Option } from 'commander';
import { integer } from '../arguments.ts';
import type { CliContext } from '../cli-context.ts';
import type { CommonOptions } from '../client/settings.ts';
import { json, line } from '../io.ts';
import { table } from '../output/table.ts';

interface UsageOptions extends CommonOptions {
  readonly days: number;
}

const DEFAULT_DAYS = 30;
const MAX_DAYS = 92;
const DAY_MS = 24 * 3_600_000;

export function registerUsage(cli: CliContext): void {
  cli
    .command('usage', 'print what the team has used, by day')
    .addOption(
      new Option('--days <n>', 'the last <n> days, in UTC')
        .argParser(integer(1, MAX_DAYS))
        .default(DEFAULT_DAYS),
    )
    .action(
      cli.action(async (options: UsageOptions, _command: Command) => {
        const to = new Date();
        const today = new Date(to).setUTCHours(0, 0, 0, 0);
        const from = new Date(today - (options.days - 1) * DAY_MS);
        await cli.withTorpor(options, async (torpor) => {
          const usage = await torpor.usage({ from, to });
          if (options.json) return await json(cli.io, usage);
          const rows = usage.points
            .filter(({ disk_mb_seconds, vcpu_seconds }) => disk_mb_seconds > 0 || vcpu_seconds > 0)
            .map(({ date, ...amounts }) => [date, ...hours(amounts)]);
          const header = ['DAY', 'VCPU HOURS', 'MEMORY GIB HOURS', 'DISK GIB HOURS'];
          await line(cli.io.stdout, table(header, [...rows, ['total', ...hours(usage.total)]]));
        });
      }),
    );
}

function hours({ vcpu_seconds, memory_mb_seconds, disk_mb_seconds }: Usage['total']): string[] {
  return [vcpu_seconds, memory_mb_seconds / 1024, disk_mb_seconds / 1024].map((seconds) =>
    (seconds / 3600).toFixed(2),
  );
}
