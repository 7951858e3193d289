import { TorporError, withFullStop } from '@torpor/sdk/basics';
import type { CommanderError } from 'commander';

/** The error for a command line that commander refuses, with its message as a sentence. */
export function usageError({ code, message }: CommanderError): TorporError {
  const phrase = message
    .replace(/^error: /, '')
    .replace(/\n\(Did you mean (.*)\?\)$/s, '. Did you mean $1?');
  const sentence =
    code === 'commander.help'
      ? 'No command is given.'
      : withFullStop(`${phrase.charAt(0).toUpperCase()}${phrase.slice(1)}`);
  return new TorporError('invalid_request', sentence, {
    remedy:
      'Options go after the command. Add --help to a command to see its arguments and options.',
  });
}

/** Whether `--json` is among our own arguments, for a command line that cannot be parsed. */
export function asksForJson(args: readonly string[]): boolean {
  const end = args.indexOf('--');
  return args.slice(0, end === -1 ? args.length : end).includes('--json');
}
