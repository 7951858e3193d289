import { Command, CommanderError } from 'commander';
import { CliContext } from './cli-context.ts';
import { registerCommands } from './commands/index.ts';
import { EXIT } from './exit-codes.ts';
import { type Io, write } from './io.ts';
import { reportError } from './output/report-error.ts';
import { asksForJson, usageError } from './usage-error.ts';
import { VERSION } from './version.ts';

const FOOTER = `
Settings: TORPOR_DATA_DIR, TORPOR_PORT, TORPOR_API_URL, TORPOR_API_KEY and more; \`torpor config\`
lists them. Unless an API URL and key are set, those of the local server are read from its data
directory.

Wherever a command takes the id of a sandbox, its first characters are enough if no other id
begins with them.

Exit status:
  0      success
  1      failure
  2      wrong usage
  3      not found
  4      the API key is missing or wrong, or does not allow this
  5      the state of the sandbox, or an existing name, does not allow this
  6      no response from the server, or no capacity on its host
  7      timeout
  8      this machine lacks something; see torpor doctor
  128+n  terminated by signal n
exec, run and shell exit with the status of the program in the sandbox, with 2 for wrong
usage, or with
  124    the program was killed at its timeout
  125    Torpor failed, not the program
  126    the program cannot be executed
  127    the program does not exist`;

/** `torpor` without its commands. */
export function createProgram(): Command {
  return new Command('torpor')
    .description('Run untrusted code in microVM sandboxes on your own machine.')
    .version(VERSION)
    .enablePositionalOptions()
    .addHelpText('after', FOOTER)
    .exitOverride();
}

/** Runs one command line. Returns the exit status; never throws for a user error. */
export async function runCli(args: readonly string[], io: Io): Promise<number> {
  let helpWritten = Promise.resolve();
  const program = createProgram().configureOutput({
    writeOut: (text) => {
      helpWritten = write(io.stdout, text);
      // Awaited below.
      helpWritten.catch(() => undefined);
    },
    writeErr: (text) => void io.stderr.write(text),
    // Errors are reported below, as those of commands are.
    outputError: () => undefined,
  });
  const cli = new CliContext(io, program);
  await registerCommands(cli, args);
  try {
    await program.parseAsync(args, { from: 'user' });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    if (error.exitCode === 0) {
      await cli.action(() => helpWritten)();
      return cli.exitCode;
    }
    const asJson = asksForJson(args);
    await reportError(io, usageError(error), { asJson }).catch(() => undefined);
    return EXIT.usage;
  }
  return cli.exitCode;
}
