import type { Command } from 'commander';
import type { CliContext } from '../cli-context.ts';
import { type CommonOptions, readConfig } from '../client/settings.ts';
import { json, line } from '../io.ts';
import { setupReport } from '../output/setup-report.ts';
import { hostSettings } from '../platform/host-settings.ts';

export function registerSetup(cli: CliContext): void {
  cli.command('setup', 'install what this machine lacks: Debian packages, with apt').action(
    cli.action(async (options: CommonOptions, _command: Command) => {
      // Loaded here, because most commands do not need the code of the host.
      const { requirementsFor, setUpHost } = await import('@torpor/agent/host-setup');
      const settings = hostSettings(await readConfig(cli.io, options));
      const checked = await setUpHost({
        report: setupReport(cli.io),
        requirements: requirementsFor(settings),
      });
      if (options.json) {
        const list = checked.map(({ requirement, result }) => ({ id: requirement.id, ...result }));
        return await json(cli.io, list);
      }
      await line(cli.io.stdout, 'This machine has everything that Torpor needs.');
    }),
  );
}
