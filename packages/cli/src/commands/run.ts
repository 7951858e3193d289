import type { Command } from 'commander';
import type { CliContext } from '../cli-context.ts';
import { withTemporarySandbox } from '../client/temporary-sandbox.ts';
import { addCreateOptions, type CreateOptions, createRequest } from './create.ts';
import {
  addProgramOptions,
  PROGRAM_HELP,
  type ProgramOptions,
  runProgram,
} from './program-options.ts';

type RunOptions = CreateOptions & ProgramOptions;

export function registerRun(cli: CliContext, args: readonly string[]): void {
  const command = cli
    .command(
      'run <command...>',
      'run a program in a new sandbox, and destroy the sandbox afterwards',
    )
    .passThroughOptions(!args.includes('--'));
  addProgramOptions(addCreateOptions(command))
    .addHelpText(
      'after',
      `
The sandbox is destroyed however the program exits, also after Ctrl-C.
${PROGRAM_HELP}

Examples:
  torpor run -- python3 -c 'print(6*7)'
  torpor run --memory 2g --timeout 5m -- make test < input.txt`,
    )
    .action(
      cli.programAction(async (command: string[], options: RunOptions, _command: Command) =>
        cli.withTorpor(options, (torpor) =>
          withTemporarySandbox(cli.io, torpor, createRequest(options), (sandbox) =>
            runProgram(cli.io, sandbox, command, options),
          ),
        ),
      ),
    );
}
