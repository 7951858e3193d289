import { Command, CommanderError } from 'commander';
import { CliContext } from './cli-context.ts';
import { registerBuilds } from './commands/builds.ts';
import { registerConfig } from './commands/config.ts';
import { registerCp } from './commands/cp.ts';
import { registerCreate } from './commands/create.ts';
import { registerDoctor } from './commands/doctor.ts';
import { registerEnv } from './commands/env.ts';
import { registerExec } from './commands/exec.ts';
import { registerForward } from './commands/forward.ts';
import { registerImage } from './commands/image.ts';
import { registerInfo } from './commands/info.ts';
import { registerKill } from './commands/kill.ts';
import { registerLogs } from './commands/logs.ts';
import { registerLs } from './commands/ls.ts';
import { registerNode } from './commands/node.ts';
import { registerFork, registerPause, registerResume } from './commands/pause.ts';
import { registerPs } from './commands/ps.ts';
import { registerRm } from './commands/rm.ts';
import { registerRun } from './commands/run.ts';
import { registerSetup } from './commands/setup.ts';
import { registerShell } from './commands/shell.ts';
import { registerSnapshot, registerTemplates } from './commands/snapshot.ts';
import { registerUp } from './commands/up.ts';
import { EXIT } from './exit-codes.ts';
import { type Io, write } from './io.ts';
import { reportError } from './output/report-error.ts';
import { asksForJson, usageError } from './usage-error.ts';
import { VERSION } from './version.ts';

const FOOTER = `
Settings: TORPOR_DATA_DIR, TORPOR_PORT, TORPOR_API_URL, TORPOR_API_KEY and more; \`torpor config\`
lists them. Unless an API URL and key are set, the data directory says where the local server is
and what its key is.

Wherever a command takes an id, its first characters are enough, as long as no other sandbox's
id begins with them.

Exit status:
  0      success
  1      failure
  2      wrong usage
  3      not found
  4      the API key is missing or wrong, or does not allow this
  5      the state of the sandbox, or an existing name, does not allow this
  6      no answer from the server, or no room on its host
  7      timeout
  8      this machine lacks something; see torpor doctor
  128+n  ended by signal n
exec, run and shell exit with the status of the program in the sandbox, with 2 for wrong
usage, or with
  124    the program ran into its timeout
  125    Torpor failed, not the program
  126    the program cannot be executed
  127    the program does not exist`;

/** Runs one command line. Returns the exit status; never throws for what a user did. */
export async function runCli(args: readonly string[], io: Io): Promise<number> {
  let helpWritten = Promise.resolve();
  const program = new Command('torpor')
    .description('Run untrusted code in microVM sandboxes on your own machine.')
    .version(VERSION)
    .enablePositionalOptions()
    .addHelpText('after', FOOTER)
    .exitOverride()
    .configureOutput({
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
  for (const register of [
    registerUp,
    registerSetup,
    registerDoctor,
    registerConfig,
    registerEnv,
    registerNode,
    registerRun,
    registerCreate,
    registerLs,
    registerInfo,
    registerExec,
    registerShell,
    registerCp,
    registerForward,
    registerPs,
    registerKill,
    registerLogs,
    registerPause,
    registerResume,
    registerFork,
    registerSnapshot,
    registerTemplates,
    registerRm,
    registerImage,
    registerBuilds,
  ]) {
    register(cli, args);
  }
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
