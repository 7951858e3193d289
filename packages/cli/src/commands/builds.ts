import { formatBytes } from '@torpor/sdk/basics';
import type { Command } from 'commander';
import type { CliContext } from '../cli-context.ts';
import type { CommonOptions } from '../client/settings.ts';
import { EXIT } from '../exit-codes.ts';
import { json, line } from '../io.ts';
import { table } from '../output/table.ts';

export function registerBuilds(cli: CliContext): void {
  const builds = cli.group(
    'builds',
    'check and remove builds, in which paused sandboxes and snapshots are stored',
  );

  cli
    .command(
      'verify',
      'read every build back and check it; the exit status is 1 if one is damaged',
      builds,
    )
    .action(
      cli.action(async (options: CommonOptions, _command: Command) => {
        return cli.withTorpor(options, async (torpor) => {
          const reports = await torpor.builds.verify();
          const damaged = reports.some(({ fault }) => fault !== undefined);
          if (options.json) {
            await json(cli.io, reports);
          } else {
            const rows = reports.map(({ build_id, size_bytes, references, fault }) => [
              build_id,
              formatBytes(size_bytes),
              fault === undefined ? 'sound' : 'damaged',
              fault ?? references.join(', '),
            ]);
            await line(cli.io.stdout, table(['BUILD', 'SIZE', 'STATE', 'NOTE'], rows));
          }
          return damaged ? EXIT.failure : EXIT.ok;
        });
      }),
    );

  cli.command('gc', 'remove builds that no sandbox or snapshot needs', builds).action(
    cli.action(async (options: CommonOptions, _command: Command) => {
      await cli.withTorpor(options, async (torpor) => {
        const collected = await torpor.builds.collect();
        if (options.json) return await json(cli.io, collected);
        const count = collected.removed_build_ids.length;
        const freed = formatBytes(collected.freed_bytes);
        await line(
          cli.io.stdout,
          `${count} build${count === 1 ? '' : 's'} removed, ${freed} freed`,
        );
      });
    }),
  );
}
