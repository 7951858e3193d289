import type { Command } from 'commander';
import type { CliContext } from '../cli-context.ts';
import type { CommonOptions } from '../client/settings.ts';
import { json, line } from '../io.ts';
import { table } from '../output/table.ts';

export function registerPs(cli: CliContext): void {
  cli.command('ps <id>', 'list the processes that the API started in a sandbox').action(
    cli.action(async (id: string, options: CommonOptions, _command: Command) => {
      await cli.withSandbox(options, id, async (sandbox) => {
        const processes = await sandbox.processes.list();
        if (options.json) return await json(cli.io, processes);
        const rows = processes.map(({ pid, tag, cmd, args }) => [
          String(pid),
          tag ?? '',
          [cmd, ...args].join(' '),
        ]);
        await line(cli.io.stdout, table(['PID', 'TAG', 'COMMAND'], rows));
      });
    }),
  );
}
