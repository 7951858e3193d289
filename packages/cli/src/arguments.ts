import * as config from '@torpor/control-plane/config';
import { InvalidArgumentError } from 'commander';

/** Parses an option with the parser of a setting, with errors that commander shows. */
export function optionOf<T>(parse: config.Parser<T>): (text: string) => T {
  return (text) => {
    try {
      return parse(text, process.cwd());
    } catch (error) {
      if (!(error instanceof config.InvalidValueError)) throw error;
      throw new InvalidArgumentError(error.message);
    }
  };
}

/** Parses an option: a whole number between two bounds. */
export function integer(minimum: number, maximum: number): (text: string) => number {
  return optionOf(config.integer(minimum, maximum));
}

/** Parses an option: a time such as `500ms`, `30s`, `5m`, `2h`, `7d`, or plain seconds. Returns milliseconds. */
export const duration = optionOf(config.duration);

/** Parses an option: a time between two bounds, each given as on a command line. */
export function durationWithin(least: string, most: string): (text: string) => number {
  return optionOf(config.durationWithin(least, most));
}

const SIZE_UNITS: Record<string, number> = { m: 1, g: 1024, t: 1024 * 1024 };

/** Parses an option: a size such as `512`, `512m`, `2g`. Returns MiB. */
export function mebibytes(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([mgt])?(?:i?b)?$/i.exec(text);
  const size = Number(match?.[1]) * (SIZE_UNITS[(match?.[2] ?? 'm').toLowerCase()] ?? NaN);
  if (!(size <= Number.MAX_SAFE_INTEGER)) {
    throw new InvalidArgumentError('It must be a size such as 512m or 2g.');
  }
  return Math.round(size);
}

/** Collects an option that may be repeated. */
export function repeated(text: string, previous: readonly string[] | undefined): string[] {
  return [...(previous ?? []), text];
}

/** Collects an option `NAME=VALUE` that may be repeated. */
export function assignment(
  text: string,
  previous: Record<string, string> | undefined,
): Record<string, string> {
  const separator = text.indexOf('=');
  if (separator < 1) throw new InvalidArgumentError('It must have the form NAME=VALUE.');
  return { ...previous, [text.slice(0, separator)]: text.slice(separator + 1) };
}
