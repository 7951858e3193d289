import { TorporError } from '@torpor/protocol';
import { type Command, Option } from 'commander';
import { assignment, duration } from '../arguments.ts';
import type { CliContext } from '../cli-context.ts';
import type { CommonOptions } from '../client/settings.ts';
import { json, line } from '../io.ts';
import { runAttached } from '../terminal/run-attached.ts';
import { runCollected } from '../terminal/run-collected.ts';
import { runTerminal } from '../terminal/run-terminal.ts';

interface ExecOptions extends CommonOptions {
  readonly env?: Record<string, string>;
  readonly cwd?: string;
  readonly user?: string;
  readonly timeout?: number;
  readonly stdin: boolean;
  readonly tty?: boolean;
  readonly detach?: boolean;
  readonly tag?: string;
}

export function registerExec(cli: CliContext, args: readonly string[]): void {
  cli
    .command(
      'exec <id> <command...>',
      'run a program in a sandbox, connected to the standard streams',
    )
    // With `--`, our options may stand on both sides of the id; without, all after it is the program's.
    .passThroughOptions(!args.includes('--'))
    .option(
      '-e, --env <name=value>',
      'environment variable of the program; may be repeated',
      assignment,
    )
    .option('-C, --cwd <path>', 'working directory (default: the home directory of the user)')
    .option('-u, --user <user[:group]>', 'whom to run it as, by name or number (default: user)')
    .addOption(
      new Option('--timeout <time>', 'kill it after this time')
        .argParser(duration)
        .conflicts(['detach', 'tty']),
    )
    .option('-n, --no-stdin', 'empty standard input')
    .addOption(new Option('--tty', 'run it on a terminal').conflicts(['detach', 'json']))
    .option('-d, --detach', 'start it, print its pid, and leave it running')
    .option('--tag <name>', 'with --detach: name for `ps` and `kill`')
    .addHelpText(
      'after',
      `
Options of torpor go before the id or, with \`--\`, before that. Ctrl-C is passed on to the
program; a second one kills it. With --json the output is collected into one object.

Examples:
  torpor exec sb4k -- python3 -c 'print(6*7)'
  torpor exec --tty sb4k -- top
  torpor exec -d --tag web sb4k -- python3 -m http.server 8000`,
    )
    .action(
      cli.programAction(
        async (id: string, command: string[], options: ExecOptions, _command: Command) => {
          const [cmd, ...args] = command;
          if (cmd === undefined) throw new TorporError('invalid_request', 'Say which program.');
          const surroundings = { envs: options.env, cwd: options.cwd, user: options.user };
          return cli.withSandbox(options, id, async (sandbox) => {
            if (options.detach) {
              const started = await sandbox.start(cmd, args, { ...surroundings, tag: options.tag });
              await (options.json
                ? json(cli.io, started)
                : line(cli.io.stdout, String(started.pid)));
              return 0;
            }
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
          });
        },
      ),
    );
}
