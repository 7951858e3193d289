import type { Sandbox, Torpor } from '@torpor/sdk';
import { TorporError } from '@torpor/sdk/basics';
import type { Command, CommandOptions } from 'commander';
import { findSandbox } from './client/find-sandbox.ts';
import { type CommonOptions, connect, readConfig } from './client/settings.ts';
import { EXIT, exitCodeOfError, exitCodeOfProgramError, exitCodeOfSignal } from './exit-codes.ts';
import { type Io, OutputClosed } from './io.ts';
import { reportError } from './output/report-error.ts';

/** An action's exit status; undefined is success. */
type ActionResult = Promise<number | undefined> | Promise<void>;

/** The context with which the files in `commands/` build their commands. */
export class CliContext {
  readonly io: Io;
  readonly #program: Command;
  #exitCode: number = EXIT.ok;

  constructor(io: Io, program: Command) {
    this.io = io;
    this.#program = program;
  }

  /** The status to exit with, once the command has run. */
  get exitCode(): number {
    return this.#exitCode;
  }

  /** A new command with the common options. */
  command(
    nameAndArguments: string,
    description: string,
    parent: Command = this.#program,
    options: CommandOptions = {},
  ): Command {
    return parent
      .command(nameAndArguments, options)
      .description(options.isDefault ? `${description} (if no command is given)` : description)
      .option('--json', 'print JSON on standard output')
      .option('--data-dir <path>', 'data directory of the local server (TORPOR_DATA_DIR)')
      .option('--api-url <url>', 'address of the API (TORPOR_API_URL)')
      .option('--api-key <key>', 'key of the API (TORPOR_API_KEY)')
      .option(
        '--config <file>',
        'configuration file (TORPOR_CONFIG, else torpor.toml in the data directory)',
      );
  }

  /** A command that only groups others. */
  group(name: string, description: string): Command {
    return this.#program.command(name).description(description);
  }

  /** An action whose errors become a message, a remedy and an exit status. */
  action<Args extends [...unknown[]]>(
    handler: (...args: Args) => ActionResult,
    exitCodeOf: (error: TorporError) => number = exitCodeOfError,
  ): (...args: Args) => Promise<void> {
    return async (...args) => {
      try {
        this.#exitCode = (await handler(...args)) ?? EXIT.ok;
      } catch (reason) {
        if (reason instanceof OutputClosed) {
          // Exits silently, as programs in a pipeline do.
          this.#exitCode = exitCodeOfSignal('SIGPIPE');
          return;
        }
        const error = TorporError.from(reason);
        this.#exitCode = exitCodeOf(error);
        const options = optionsOf(args);
        const debug = await this.#isDebugging(options);
        const report = { asJson: options.json === true, debug };
        // A closed terminal cannot show the error.
        await reportError(this.io, error, report).catch(() => undefined);
      }
    };
  }

  /** Like {@link action}, for a command that exits with the status of a program. */
  programAction<Args extends [...unknown[]]>(
    handler: (...args: Args) => ActionResult,
  ): (...args: Args) => Promise<void> {
    return this.action(handler, exitCodeOfProgramError);
  }

  /** Runs `use` with a client of the API. */
  async withTorpor<T>(options: CommonOptions, use: (torpor: Torpor) => Promise<T>): Promise<T> {
    await using torpor = await connect(this.io, options);
    return await use(torpor);
  }

  /** Runs `use` with one sandbox, given by its id or a prefix of it. */
  withSandbox<T>(
    options: CommonOptions,
    id: string,
    use: (sandbox: Sandbox) => Promise<T>,
  ): Promise<T> {
    return this.withTorpor(options, async (torpor) => use(await findSandbox(torpor, id)));
  }

  /** Whether the settings request details of internal errors; false if the settings are invalid. */
  #isDebugging(options: CommonOptions): Promise<boolean> {
    return readConfig(this.io, options).then(
      ({ debug }) => debug,
      () => false,
    );
  }
}

/** Commander passes the options before the command itself, which comes last. */
function optionsOf(args: readonly unknown[]): CommonOptions {
  const options = args.at(-2);
  return typeof options === 'object' && options !== null ? options : {};
}
