import type { ProcessInfo } from '@torpor/sdk';
import type { Command } from 'commander';
import type { CliContext } from '../cli-context.ts';
import type { CommonOptions } from '../client/settings.ts';
import { json, line } from '../io.ts';
import { table } from '../output/table.ts';

interface PsOptions extends CommonOptions {
  readonly all?: boolean;
}

export function registerPs(cli: CliContext): void {
  cli
    .command('ps <id>', 'list the programs that were started in a sandbox through the API')
    .option('-a, --all', 'include the last 100 detached programs that have exited')
    .addHelpText('after', '\nFor all processes of a sandbox: torpor exec ID -- ps aux')
    .action(
      cli.action(async (id: string, { all, ...options }: PsOptions, _command: Command) => {
        await cli.withSandbox(options, id, async (sandbox) => {
          const processes = await sandbox.processes.list({ all });
          if (options.json) return await json(cli.io, processes);
          const rows = processes.map((process) => [
            String(process.pid),
            process.tag ?? '',
            state(process),
            [process.cmd, ...process.args].join(' '),
          ]);
          await line(cli.io.stdout, table(['PID', 'TAG', 'STATE', 'COMMAND'], rows));
        });
      }),
    );
}

function state({ exit_code, status }: ProcessInfo): string {
  if (exit_code === undefined) return 'running';
  return status ?? `exited ${exit_code}`;
}
