import { setTimeout as delay } from 'node:timers/promises';
import type { Sandbox } from '@torpor/sdk';
import { type Command, Option } from 'commander';
import { integer } from '../arguments.ts';
import type { CliContext } from '../cli-context.ts';
import type { CommonOptions } from '../client/settings.ts';
import { EXIT, exitCodeOfSignal } from '../exit-codes.ts';
import { type Io, json, write } from '../io.ts';
import { appendedPart } from '../output/appended-part.ts';
import { printStatus } from '../output/progress.ts';

interface LogsOptions extends CommonOptions {
  readonly follow?: boolean;
  readonly bytes?: number;
}

const POLL_INTERVAL_MS = 500;
/** As much as a host keeps. */
const MAX_BYTES = 1024 * 1024;

export function registerLogs(cli: CliContext): void {
  cli
    .command('logs <id>', 'print the console of a sandbox: the messages of its kernel and init')
    .addOption(
      new Option(
        '-f, --follow',
        'keep printing new output until the sandbox is destroyed or fails',
      ).conflicts('json'),
    )
    .option('--bytes <n>', 'only the last <n> bytes', integer(1, MAX_BYTES))
    .action(
      cli.action(async (id: string, options: LogsOptions, _command: Command) =>
        cli.withSandbox(options, id, async (sandbox) => {
          const content = await sandbox.console({ maxBytes: options.bytes });
          if (options.json) {
            await json(cli.io, { id, console: content.toString() });
            return EXIT.ok;
          }
          await write(cli.io.stdout, content);
          if (content.length === 0) {
            printStatus(
              cli.io,
              'the console is empty: a sandbox that was restored from a build starts with an empty one',
            );
          }
          return options.follow ? follow(cli.io, sandbox, content) : EXIT.ok;
        }),
      ),
    );
}

/** The console is a bounded file without offsets: new output is found by comparing. */
async function follow(io: Io, sandbox: Sandbox, first: Buffer): Promise<number> {
  const interrupted = new AbortController();
  const unsubscribe = io.onSignal((signal) => interrupted.abort(signal));
  try {
    for (let seen = first; ; ) {
      await delay(POLL_INTERVAL_MS, undefined, { signal: interrupted.signal });
      const { status } = await sandbox.refresh(interrupted.signal);
      const content = await sandbox.console({ signal: interrupted.signal });
      await write(io.stdout, appendedPart(seen, content));
      seen = content;
      if (status === 'stopped' || status === 'error') return EXIT.ok;
    }
  } catch (error) {
    if (interrupted.signal.aborted) return exitCodeOfSignal(interrupted.signal.reason);
    throw error;
  } finally {
    unsubscribe();
  }
}
