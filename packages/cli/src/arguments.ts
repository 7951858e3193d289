import { InvalidArgumentError } from 'commander';

/** An option's whole number between two bounds. */
export function integer(minimum: number, maximum: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || value < minimum || value > maximum) {
      throw new InvalidArgumentError(`It must be a whole number from ${minimum} to ${maximum}.`);
    }
    return value;
  };
}

const DURATION_UNITS: Record<string, number> = {
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};

/** An option's time: `500ms`, `30s`, `5m`, `2h`, `7d`, or plain seconds. Returns milliseconds. */
export function duration(text: string): number {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)?$/.exec(text);
  const milliseconds = Number(match?.[1]) * (DURATION_UNITS[match?.[2] ?? 's'] ?? NaN);
  if (!(milliseconds <= Number.MAX_SAFE_INTEGER)) {
    throw new InvalidArgumentError('It must be a time such as 30s, 5m or 2h.');
  }
  return milliseconds;
}

/** An option's time between two bounds, each given as on a command line. */
export function durationWithin(least: string, most: string): (text: string) => number {
  return (text) => {
    const value = duration(text);
    if (value < duration(least) || value > duration(most)) {
      throw new InvalidArgumentError(`It must be a time from ${least} to ${most}.`);
    }
    return value;
  };
}

const SIZE_UNITS: Record<string, number> = { m: 1, g: 1024, t: 1024 * 1024 };

/** An option's size: `512`, `512m`, `2g`. Returns MiB. */
export function mebibytes(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([mgt])?(?:i?b)?$/i.exec(text);
  const size = Number(match?.[1]) * (SIZE_UNITS[(match?.[2] ?? 'm').toLowerCase()] ?? NaN);
  if (!(size <= Number.MAX_SAFE_INTEGER)) {
    throw new InvalidArgumentError('It must be a size such as 512m or 2g.');
  }
  return Math.round(size);
}

/** Collects an option `NAME=VALUE` that may be given several times. */
export function assignment(
  text: string,
  previous: Record<string, string> | undefined,
): Record<string, string> {
  const separator = text.indexOf('=');
  if (separator < 1) throw new InvalidArgumentError('It must have the form NAME=VALUE.');
  return { ...previous, [text.slice(0, separator)]: text.slice(separator + 1) };
}
