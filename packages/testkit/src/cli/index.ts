/** The command line, in this process and as a program. */
export { type CliInput, type CliResult, cli } from './in-process.ts';
export {
  type CommandResult,
  runShell,
  runTorpor,
  TORPOR,
  TorporProcess,
  temporaryDataDir,
} from './torpor-process.ts';
