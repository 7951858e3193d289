import type { Command } from 'commander';
import { duration, integer } from '../arguments.ts';
import type { CliContext } from '../cli-context.ts';
import type { CommonOptions } from '../client/settings.ts';
import { EXIT, exitCodeOfError } from '../exit-codes.ts';
import { json, line } from '../io.ts';
import { errorEntry, printRemedies } from '../output/report-error.ts';
import { reportTimings } from '../output/timings.ts';

interface TimedOptions extends CommonOptions {
  readonly timings?: boolean;
}

interface PauseOptions extends TimedOptions {
  readonly strict?: boolean;
}

interface ResumeOptions extends PauseOptions {
  readonly idleTimeout?: number;
}

interface ForkOptions extends TimedOptions {
  readonly idleTimeout?: number;
  readonly count: number;
}

const MAX_COPIES = 100;
const TIMINGS = ['--timings', 'print how long each phase took'] as const;
const IDLE_TIMEOUT = '--idle-timeout <time>';

export function registerPause(cli: CliContext): void {
  cli
    .command('pause <id>', 'pause a sandbox: keep its memory and disk, free everything else')
    .option('--strict', 'fail if it is already paused')
    .option(...TIMINGS)
    .action(
      cli.action(async (id: string, options: PauseOptions, _command: Command) => {
        await cli.withSandbox(options, id, async (sandbox) => {
          const info = await sandbox.pause({ strict: options.strict });
          await (options.json ? json(cli.io, info) : line(cli.io.stdout, sandbox.id));
          await reportTimings(cli.io, info.timings, options);
        });
      }),
    );
}

export function registerResume(cli: CliContext): void {
  cli
    .command('resume <id>', 'resume a paused sandbox from where it was paused')
    .option(IDLE_TIMEOUT, 'new idle timeout (default: unchanged)', duration)
    .option('--strict', 'fail if it is already running')
    .option(...TIMINGS)
    .action(
      cli.action(async (id: string, options: ResumeOptions, _command: Command) => {
        await cli.withSandbox(options, id, async (sandbox) => {
          const info = await sandbox.resume({
            idleTimeoutMs: options.idleTimeout,
            strict: options.strict,
          });
          await (options.json ? json(cli.io, info) : line(cli.io.stdout, sandbox.id));
          await reportTimings(cli.io, info.timings, options);
        });
      }),
    );
}

export function registerFork(cli: CliContext): void {
  cli
    .command('fork <id>', 'copy a running or paused sandbox, and print the ids of the copies')
    .option('-n, --count <n>', 'number of copies', integer(1, MAX_COPIES), 1)
    .option(IDLE_TIMEOUT, 'idle timeout of the copies (default: that of the source)', duration)
    .option(...TIMINGS)
    .action(
      cli.action(async (id: string, options: ForkOptions, _command: Command) => {
        return cli.withSandbox(options, id, async (sandbox) => {
          const { sandboxes, errors, timings } = await sandbox.fork(options.count, {
            idleTimeoutMs: options.idleTimeout,
          });
          if (options.json) {
            const failed = errors.map((error) => ({ error: errorEntry(error) }));
            const children = [...sandboxes.map(({ info }) => ({ sandbox: info })), ...failed];
            await json(cli.io, { children, timings });
          } else {
            for (const child of sandboxes) await line(cli.io.stdout, child.id);
          }
          for (const { message } of errors) await line(cli.io.stderr, `torpor: ${message}`);
          await printRemedies(cli.io, errors);
          await reportTimings(cli.io, timings, options);
          return errors[0] === undefined ? EXIT.ok : exitCodeOfError(errors[0]);
        });
      }),
    );
}
