export { CommandError, type CommandOptions, runCommand } from './command.ts';
export { type FileLock, tryLockFile } from './flock.ts';
export { SystemError } from './libc.ts';
export { copySparse, dataExtents, type FileExtent, type SparseCopy } from './sparse.ts';
