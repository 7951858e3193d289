import type { Command } from 'commander';
import { duration } from '../arguments.ts';
import type { CliContext } from '../cli-context.ts';
import { withTemporarySandbox } from '../client/temporary-sandbox.ts';
import { runAttached } from '../terminal/run-attached.ts';
import { runCollected } from '../terminal/run-collected.ts';
import { runTerminal } from '../terminal/run-terminal.ts';
import { addCreateOptions, type CreateOptions, createRequest } from './create.ts';

interface RunOptions extends CreateOptions {
  readonly cwd?: string;
  readonly user?: string;
  readonly timeout?: number;
  readonly stdin: boolean;
  readonly tty?: boolean;
}

export function registerRun(cli: CliContext, args: readonly string[]): void {
  addCreateOptions(
    cli.command(
      'run <command...>',
      'run a program in a new sandbox, and destroy the sandbox afterwards',
    ),
  )
    .passThroughOptions(!args.includes('--'))
    .option('-C, --cwd <path>', 'working directory (default: the home directory of the user)')
    .option('-u, --user <user[:group]>', 'whom to run it as, by name or number (default: user)')
    .option('--timeout <time>', 'kill it after this time', duration)
    .option('-n, --no-stdin', 'empty standard input')
    .option('--tty', 'run it on a terminal')
    .addHelpText(
      'after',
      `
The sandbox is destroyed however the program ends, also after Ctrl-C.

Examples:
  torpor run -- python3 -c 'print(6*7)'
  torpor run --memory 2g --timeout 5m -- make test < input.txt`,
    )
    .action(
      cli.programAction(async (command: string[], options: RunOptions, _command: Command) =>
        cli.withTorpor(options, (torpor) =>
          withTemporarySandbox(cli.io, torpor, createRequest(options), async (sandbox) => {
            const surroundings = { cwd: options.cwd, user: options.user };
            const [cmd = '', ...args] = command;
            if (options.tty) return runTerminal(cli.io, sandbox, { ...surroundings, cmd, args });
            if (!options.json) {
              return runAttached(cli.io, sandbox, command, {
                ...surroundings,
                timeoutMs: options.timeout,
                stdin: options.stdin,
              });
            }
            return runCollected(cli.io, sandbox, command, {
              ...surroundings,
              timeoutMs: options.timeout,
            });
          }),
        ),
      ),
    );
}
