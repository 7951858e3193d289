import { TorporError, withFullStop } from '@torpor/sdk/basics';
import type { CommanderError } from 'commander';

/** What commander says of a value that an option's parser refused with a sentence. */
const INVALID_VALUE =
  /^error: option '(?:-\w, )?(--[\w-]+)[^']*' argument '(.*)' is invalid\. (.*)$/s;

/** What to do about the errors of commander, by their codes. */
const REMEDIES: Readonly<Record<string, string>> = {
  'commander.help': '`--help` lists the commands.',
  'commander.unknownCommand': '`--help` lists the commands.',
  'commander.unknownOption': 'Options go after the command; add --help to the command to see them.',
};
const DEFAULT_REMEDY = 'Add --help to the command to see its arguments and options.';

/** The error for a command line that commander refuses, with its message as a sentence. */
export function usageError({ code, message }: CommanderError): TorporError {
  const [, flag, value, remedy] = INVALID_VALUE.exec(message) ?? [];
  if (flag !== undefined && remedy !== undefined) {
    const sentence = `${flag} has the invalid value ${JSON.stringify(value)}.`;
    return new TorporError('invalid_request', sentence, { remedy });
  }
  const phrase = message
    .replace(/^error: /, '')
    .replace(/\n\(Did you mean (.*)\?\)$/s, '. Did you mean $1?');
  const sentence =
    code === 'commander.help'
      ? 'No command is given.'
      : withFullStop(`${phrase.charAt(0).toUpperCase()}${phrase.slice(1)}`);
  return new TorporError('invalid_request', sentence, { remedy: REMEDIES[code] ?? DEFAULT_REMEDY });
}

/** Whether `--json` is among our own arguments, for a command line that cannot be parsed. */
export function asksForJson(args: readonly string[]): boolean {
  const end = args.indexOf('--');
  return args.slice(0, end === -1 ? args.length : end).includes('--json');
}
