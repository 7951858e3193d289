import { TorporError } from '@torpor/sdk/basics';
import type { Command } from 'commander';
import type { CliContext } from '../cli-context.ts';
import { withTemporarySandbox } from '../client/temporary-sandbox.ts';
import { printStatus } from '../output/progress.ts';
import { runTerminal } from '../terminal/run-terminal.ts';
import {
  addCreateOptions,
  type CreateOptions,
  createRequest,
  givenCreateOptions,
} from './create.ts';

interface ShellOptions extends CreateOptions {
  readonly cwd?: string;
  readonly user?: string;
}

export function registerShell(cli: CliContext): void {
  addCreateOptions(cli.command('shell [id]', 'open a shell in a sandbox'))
    .option('-C, --cwd <path>', 'working directory (default: the home directory of the user)')
    .option('-u, --user <user[:group]>', 'user to run it as, by name or number (default: user)')
    .addHelpText(
      'after',
      '\nWithout an id, the shell runs in a new sandbox that is destroyed when it exits.',
    )
    .action(
      cli.programAction(async (id: string | undefined, options: ShellOptions, command: Command) => {
        refuseUnused(id, options, command);
        const shell = {
          cmd: '/bin/bash',
          args: ['-l'],
          cwd: options.cwd,
          user: options.user,
          envs: options.env,
          passOn: hangUp,
        };
        if (id !== undefined) {
          return cli.withSandbox(options, id, (sandbox) => runTerminal(cli.io, sandbox, shell));
        }
        return cli.withTorpor(options, (torpor) => {
          printStatus(cli.io, 'starting a sandbox…');
          return withTemporarySandbox(cli.io, torpor, createRequest(options), (sandbox) =>
            runTerminal(cli.io, sandbox, shell),
          );
        });
      }),
    );
}

/** Options of `create` do not apply to an existing sandbox, except `--env`, nor `--json` to a terminal. */
function refuseUnused(id: string | undefined, options: ShellOptions, command: Command): void {
  if (options.json) {
    throw new TorporError('invalid_request', 'A shell has no JSON output.', {
      remedy: '`torpor exec --json` runs a program and prints its result.',
    });
  }
  if (id === undefined) return;
  const unused = givenCreateOptions(command).filter(({ long }) => long !== '--env');
  if (unused.length === 0) return;
  const flags = unused.map(({ long }) => long).join(', ');
  throw new TorporError(
    'invalid_request',
    `${flags} can only be given for a new sandbox, not for ${id}.`,
    {
      remedy: 'Leave out the id or those options.',
    },
  );
}

/** An interactive shell ignores termination signals except SIGHUP, which it passes on to its jobs. */
function hangUp(): 'SIGHUP' {
  return 'SIGHUP';
}
