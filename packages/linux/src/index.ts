export { CommandError, type CommandOptions, runCommand } from './command.ts';
export { SystemError } from './libc.ts';
