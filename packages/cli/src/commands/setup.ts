import type { Command } from 'commander';
import type { CliContext } from '../cli-context.ts';
import { type CommonOptions, readConfig } from '../client/settings.ts';
import { json, line } from '../io.ts';

export function registerSetup(cli: CliContext): void {
  cli.command('setup', 'install what this machine lacks: Debian packages, with apt').action(
    cli.action(async (options: CommonOptions, _command: Command) => {
      const { requirementsFor, setupReport, setUpHost } = await import('../host-setup/index.ts');
      const checked = await setUpHost({
        report: setupReport(cli.io),
        requirements: requirementsFor(await readConfig(cli.io, options)),
      });
      if (options.json) {
        const list = checked.map(({ requirement, result }) => ({ id: requirement.id, ...result }));
        return await json(cli.io, list);
      }
      await line(cli.io.stdout, 'This machine has everything that Torpor needs.');
    }),
  );
}
