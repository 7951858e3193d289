import { type Command, Option } from 'commander';
import type { CliContext } from '../cli-context.ts';
import type { CommonOptions } from '../client/settings.ts';
import { json } from '../io.ts';

interface KillOptions extends CommonOptions {
  readonly signal: 'SIGKILL' | 'SIGTERM';
}

export function registerKill(cli: CliContext): void {
  cli
    .command('kill <id> <process>', 'end a process in a sandbox, by its pid or tag')
    .addOption(
      new Option('-s, --signal <name>', 'the signal')
        .choices(['SIGKILL', 'SIGTERM'])
        .default('SIGTERM'),
    )
    .action(
      cli.action(async (id: string, selector: string, options: KillOptions, _command: Command) => {
        await cli.withSandbox(options, id, async (sandbox) => {
          await sandbox.processes.kill(selector, { name: options.signal });
          if (options.json) await json(cli.io, { id, process: selector, signal: options.signal });
        });
      }),
    );
}
