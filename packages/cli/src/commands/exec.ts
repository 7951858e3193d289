import { TorporError } from '@torpor/protocol';
import type { Command } from 'commander';
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
    .command('exec <id> <command...>', 'run a program in a sandbox, with our standard streams')
    // With `--`, our options may stand on both sides of the id; without, all after it is the program's.
    .passThroughOptions(!args.includes('--'))
    .option('-e, --env <name=value>', 'environment of the program; may be repeated', assignment)
    .option('-C, --cwd <path>', 'directory to run it in (default: the home of its user)')
    .option('-u, --user <name>', 'user to run it as (default: user)')
    .option('--timeout <time>', 'kill it after this time', duration)
    .option('-n, --no-stdin', 'give it an empty standard input instead of ours')
    .option('--tty', 'run it on a terminal')
    .option('-d, --detach', 'start it, print its pid, and let it run')
    .option('--tag <name>', 'with --detach: a name for `ps` and `kill`')
    .addHelpText(
      'after',
      "\nExample: torpor exec sb… -- python3 -c 'print(6*7)'\nWith --json the output is collected into one object.",
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
