import { TorporError } from '@torpor/sdk/basics';
import type { Command } from 'commander';
import { assignment } from '../arguments.ts';
import type { CliContext } from '../cli-context.ts';
import { json, line } from '../io.ts';
import {
  addProgramOptions,
  PROGRAM_HELP,
  type ProgramOptions,
  runProgram,
} from './program-options.ts';

interface ExecOptions extends ProgramOptions {
  readonly env?: Record<string, string>;
  readonly detach?: boolean;
  readonly tag?: string;
}

export function registerExec(cli: CliContext, args: readonly string[]): void {
  const command = cli
    .command(
      'exec <id> <command...>',
      'run a program in a sandbox, connected to the standard streams',
    )
    // With `--`, our options may be on both sides of the id; without it, only before the id.
    .passThroughOptions(!args.includes('--'))
    .option(
      '-e, --env <name=value>',
      'environment variable of the program; may be repeated',
      assignment,
    );
  addProgramOptions(command)
    .option('-d, --detach', 'start it, print its pid, and leave it running')
    .option('--tag <name>', 'with --detach: name for `ps` and `kill`')
    .addHelpText(
      'after',
      `
Options of torpor go before the id or, with \`--\`, before the \`--\`. Ctrl-C is passed on to the
program; a second one kills it.
${PROGRAM_HELP}

Examples:
  torpor exec sb4k -- python3 -c 'print(6*7)'
  torpor exec --tty sb4k -- top
  torpor exec -d --tag web sb4k -- python3 -m http.server 8000`,
    )
    .action(
      cli.programAction(
        async (id: string, command: string[], options: ExecOptions, _command: Command) => {
          const { env: envs, cwd, user, detach, tag } = options;
          if (tag !== undefined && !detach) {
            throw new TorporError('invalid_request', '--tag can only be used with --detach.');
          }
          return cli.withSandbox(options, id, async (sandbox) => {
            if (!detach) return runProgram(cli.io, sandbox, command, options, envs);
            const [cmd = '', ...args] = command;
            const started = await sandbox.start(cmd, args, { envs, cwd, user, tag });
            await (options.json ? json(cli.io, started) : line(cli.io.stdout, String(started.pid)));
            return 0;
          });
        },
      ),
    );
}
