import { CommandError } from '@torpor/linux';
import { TorporError } from '@torpor/protocol';

/** The messages of programs whose write failed with ENOSPC or EDQUOT, in the locale C. */
const DISK_FULL_PATTERN = /No space left on device|Disk quota exceeded/;

/**
 * The TorporError for a failure to build an artefact. A program that ran out of disk becomes
 * `disk_full`, one that is missing `host_setup`.
 */
export function toImageError(reason: unknown): TorporError {
  if (!(reason instanceof CommandError)) return TorporError.from(reason);
  if (DISK_FULL_PATTERN.test(reason.stderr)) {
    return new TorporError('disk_full', `The disk is full: ${reason.command[0]} could not write.`, {
      cause: reason,
    });
  }
  if (reason.exitCode === undefined && reason.message.includes('ENOENT')) {
    return new TorporError('host_setup', `The program ${reason.command[0]} is not installed.`, {
      cause: reason,
    });
  }
  return new TorporError('internal_error', reason.message, {
    cause: reason,
    remedy: 'The message of the program says why; `torpor doctor` checks this machine.',
  });
}
