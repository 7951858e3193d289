export { CommandError, type CommandOptions, runCommand } from './command.ts';
export { type FileLock, tryLockFile } from './flock.ts';
export { SystemError } from './libc.ts';
