import type { Sandbox } from '@torpor/sdk';
import { TorporError } from '@torpor/sdk/basics';
import { type Command, Option } from 'commander';
import { duration } from '../arguments.ts';
import type { CommonOptions } from '../client/settings.ts';
import type { Io } from '../io.ts';

/** Options of the commands that run a program and exit with its status. */
export interface ProgramOptions extends CommonOptions {
  readonly cwd?: string;
  readonly user?: string;
  readonly timeout?: number;
  readonly stdin: boolean;
  readonly tty?: boolean;
}

export const PROGRAM_HELP = `
Standard input goes to the program, with --json too, unless -n is given. Use -n in a shell loop
that reads the lines of a file. With --json the output is collected into one object.`;

export function addProgramOptions(command: Command): Command {
  return command
    .option('-C, --cwd <path>', 'working directory (default: the home directory of the user)')
    .option('-u, --user <user[:group]>', 'user to run it as, by name or number (default: user)')
    .addOption(
      new Option(
        '--timeout <time>',
        'kill it after this time, rounded up to whole seconds (default: no limit)',
      )
        .argParser(duration)
        .conflicts(['detach', 'tty']),
    )
    .option('-n, --no-stdin', 'empty standard input')
    .addOption(new Option('--tty', 'run it on a terminal').conflicts(['detach', 'json', 'stdin']));
}

/** Runs a program with the options, and returns the exit status. */
export async function runProgram(
  io: Io,
  sandbox: Sandbox,
  command: readonly string[],
  { json, tty, timeout: timeoutMs, stdin, cwd, user }: ProgramOptions,
  envs?: Record<string, string>,
): Promise<number> {
  const surroundings = { envs, cwd, user };
  if (tty) {
    const { runTerminal } = await import('../terminal/run-terminal.ts');
    const [cmd, ...args] = command;
    return runTerminal(io, sandbox, { ...surroundings, cmd, args });
  }
  const run = json
    ? (await import('../terminal/run-collected.ts')).runCollected
    : (await import('../terminal/run-attached.ts')).runAttached;
  try {
    return await run(io, sandbox, command, { ...surroundings, timeoutMs, stdin });
  } catch (reason) {
    throw timeoutMs === undefined ? reason : withTimeoutAsGiven(reason, timeoutMs);
  }
}

/** Replaces the whole seconds in the API's error with the timeout as given. */
function withTimeoutAsGiven(reason: unknown, timeoutMs: number): unknown {
  if (!(reason instanceof TorporError) || reason.code !== 'timeout') return reason;
  const given = timeoutMs < 1000 ? `${timeoutMs} ms` : `${timeoutMs / 1000} s`;
  const message = reason.message.replace(/ within \d+ s;/, ` within ${given};`);
  return new TorporError('timeout', message, { remedy: reason.remedy, cause: reason });
}
