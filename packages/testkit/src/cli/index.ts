/** The command line, in this process and as a program. */
export { type CliInput, type CliResult, cli } from './in-process.ts';
export { ServerProcess, type ServerProcessOptions, TORPOR } from './server-process.ts';
export {
  type CommandResult,
  runShell,
  runTorpor,
  TorporProcess,
  temporaryDataDir,
} from './torpor-process.ts';
