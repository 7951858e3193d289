import { SIGNAL_NAMES, signalNumber, TorporError } from '@torpor/sdk/basics';
import { type Command, InvalidArgumentError } from 'commander';
import type { CliContext } from '../cli-context.ts';
import type { CommonOptions } from '../client/settings.ts';
import { json } from '../io.ts';

interface KillOptions extends CommonOptions {
  readonly signal: string;
}

const NAMES_PER_LINE = 8;

export function registerKill(cli: CliContext): void {
  cli
    .command('kill <id> <process>', 'send a signal to a process in a sandbox, by its pid or tag')
    .option('-s, --signal <signal>', 'name or number of the signal', signal, 'SIGTERM')
    .addHelpText(
      'after',
      `
The signal reaches the process and everything in its session.

Examples:
  torpor kill sb4k web-server
  torpor kill -s KILL sb4k 312

Signals: 1 to 64, RTMIN+n, RTMAX-n, or a name with or without SIG:
${signalNames()}`,
    )
    .action(
      cli.action(async (id: string, selector: string, options: KillOptions, _command: Command) => {
        if (selector === '') {
          throw new TorporError('invalid_request', 'The process must be a pid or a tag.', {
            remedy: `\`torpor ps ${id}\` lists them.`,
          });
        }
        await cli.withSandbox(options, id, async (sandbox) => {
          await sandbox.processes.kill(selector, { name: options.signal });
          if (options.json) {
            await json(cli.io, { id: sandbox.id, process: selector, signal: options.signal });
          }
        });
      }),
    );
}

function signal(text: string): string {
  if (signalNumber(text) === undefined) {
    throw new InvalidArgumentError('`torpor kill --help` lists the signals.');
  }
  return text;
}

function signalNames(): string {
  const names = SIGNAL_NAMES.map((name) => name.replace(/^SIG/, ''));
  const lines = Array.from({ length: Math.ceil(names.length / NAMES_PER_LINE) }, (_, row) =>
    names.slice(row * NAMES_PER_LINE, (row + 1) * NAMES_PER_LINE),
  );
  return lines.map((line) => `  ${line.join(' ')}`).join('\n');
}
