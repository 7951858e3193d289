import { isIP } from 'node:net';
import { resolve } from 'node:path';
import {
  isQuotaName,
  QUOTA_NAMES,
  type QuotaLimits,
  type QuotaName,
} from '@torpor/protocol/basics';

/** An invalid value of a setting or an option. The message is a sentence that says what it must be. */
export class InvalidValueError extends Error {
  override readonly name = 'InvalidValueError';
}

/** Reads a value as it is written. Relative paths are relative to `directory`. Throws {@link InvalidValueError}. */
export type Parser<T> = (text: string, directory: string) => T;

/** A whole number between two bounds. */
export function integer(minimum: number, maximum: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || value < minimum || value > maximum) {
      throw new InvalidValueError(`It must be a whole number from ${minimum} to ${maximum}.`);
    }
    return value;
  };
}

/** HOST:PORT, an IPv6 address in brackets. */
export function hostAndPort(text: string): string {
  const hasForm = /^[^/?#@\s]{1,255}:[1-9]\d{0,4}$/.test(text);
  if (hasForm && URL.canParse(`https://${text}`)) return text;
  throw new InvalidValueError('It must be a host name or address and a port: 10.0.0.7:7072.');
}

const DURATION_UNITS = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const;

function isDurationUnit(unit: string): unit is keyof typeof DURATION_UNITS {
  return Object.hasOwn(DURATION_UNITS, unit);
}

/** A time: `500ms`, `30s`, `5m`, `2h`, `7d`, or plain seconds. Returns milliseconds. */
export function duration(text: string): number {
  const [, number, unit = 's'] = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)?$/.exec(text) ?? [];
  const milliseconds = isDurationUnit(unit) ? Number(number) * DURATION_UNITS[unit] : NaN;
  if (!(milliseconds <= Number.MAX_SAFE_INTEGER)) {
    throw new InvalidValueError('It must be a time such as 30s, 5m or 2h.');
  }
  return milliseconds;
}

/** A time between two bounds, each given as it would be written. */
export function durationWithin(least: string, most: string): (text: string) => number {
  return (text) => {
    const value = duration(text);
    if (value < duration(least) || value > duration(most)) {
      throw new InvalidValueError(`It must be a time from ${least} to ${most}.`);
    }
    return value;
  };
}

/** Milliseconds as {@link duration} reads them, in the largest unit that is exact. */
export function formatDuration(milliseconds: number): string {
  const [unit, size] =
    Object.entries(DURATION_UNITS)
      .reverse()
      .find(([, unitMs]) => milliseconds % unitMs === 0) ?? (['ms', 1] as const);
  return `${milliseconds / size}${milliseconds === 0 ? 's' : unit}`;
}

/** One of several names. */
export function choice<const T extends string>(...names: readonly T[]): (text: string) => T {
  return (text) => {
    const name = names.find((candidate) => candidate === text);
    if (name !== undefined) return name;
    throw new InvalidValueError(`It must be ${names.slice(0, -1).join(', ')} or ${names.at(-1)}.`);
  };
}

export function truth(text: string): boolean {
  if (/^(?:1|true|yes|on)$/i.test(text)) return true;
  if (/^(?:0|false|no|off)$/i.test(text)) return false;
  throw new InvalidValueError('It must be true or false.');
}

/** An IP address, or a name of letters, digits and hyphens that is to be resolved (RFC 1123, section 2.1). */
export function hostName(text: string): string {
  const labels = text.replace(/\.$/, '').split('.');
  const isName =
    text.length <= MAX_HOST_NAME_LENGTH &&
    labels.every((label) => /^(?!-)[\w-]{1,63}(?<!-)$/.test(label)) &&
    // Such as 10.0.0.999, which is a mistyped address.
    !/^\d+$/.test(labels.at(-1) ?? '');
  if (isIP(text) !== 0 || isName) return text;
  throw new InvalidValueError('It must be an IP address or a host name, without a port.');
}

const MAX_HOST_NAME_LENGTH = 253;

export function httpUrl(text: string): string {
  const url = URL.parse(text);
  if (url !== null && ['http:', 'https:'].includes(url.protocol)) return text;
  throw new InvalidValueError(
    'It must be a URL that starts with http:// or https://, such as http://127.0.0.1:7070.',
  );
}

export function httpsUrl(text: string): string {
  if (URL.parse(text)?.protocol === 'https:') return text;
  throw new InvalidValueError('It must be a URL that starts with https://.');
}

/**
 * A URL as psql(1) takes it. Its host may be omitted, with a directory of sockets in the
 * parameter `host`. A password with a `/`, `?` or `#` that is not percent-encoded is refused,
 * as it would be taken for another part, and shown.
 */
export function postgresUrl(text: string): string {
  const url = parsePostgresUrl(text);
  if (url !== null && ['postgres:', 'postgresql:'].includes(url.protocol)) {
    const names = [...url.searchParams.keys()].join();
    if (url.hash === '' && !url.pathname.includes('@') && !names.includes('@')) return text;
  }
  throw new InvalidValueError(
    'It must be a URL such as postgres://user:password@host:5432/database, with special characters of the password percent-encoded.',
  );
}

/** A URL may not have a user without a host, but that of a database may: the host is then `socket`. */
export function parsePostgresUrl(text: string): URL | null {
  return URL.parse(text) ?? URL.parse(text.replace('@/', '@socket/'));
}

/** A key as it can be sent in a header. */
export function key(text: string): string {
  if (/^[\x21-\x7e]+$/.test(text)) return text;
  throw new InvalidValueError('It must be one word of ASCII characters.');
}

/** 32 bytes in base64. */
export function secretKey(text: string): string {
  if (/^[A-Za-z0-9+/]{43}=$/.test(text)) return text;
  throw new InvalidValueError('It must be 32 random bytes in base64: `openssl rand -base64 32`.');
}

/** Networks in CIDR notation, separated by commas. */
export function networks(text: string): string {
  for (const network of text.split(',')) {
    const [address = '', prefix = ''] = network.split('/');
    const longest = { 0: -1, 4: 32, 6: 128 }[isIP(address)] ?? -1;
    if (!/^\d{1,3}$/.test(prefix) || Number(prefix) > longest) {
      throw new InvalidValueError('It must be networks such as 10.0.0.0/8,fd00::/8.');
    }
  }
  return text;
}

/** The address of a web server, without a path. */
export function webUrl(text: string): string {
  const url = URL.parse(text);
  if (url !== null && /^https?:$/.test(url.protocol) && url.pathname === '/' && url.search === '') {
    return url.origin;
  }
  throw new InvalidValueError('It must be an address such as https://torpor.example.com.');
}

/** The limits of a team that has none of its own. */
export const DEFAULT_QUOTAS: QuotaLimits = {
  running_sandboxes: 20,
  vcpus: 40,
  memory_mb: 40 * 1024,
  disk_mb: 500 * 1024,
  snapshots: 100,
  api_keys: 100,
  webhooks: 20,
};

/** `NAME=N` or `NAME=unlimited`, separated by commas. */
export function parseQuotas(text: string): QuotaLimits {
  const limits = text.split(',').map((item): [QuotaName, number | null] => {
    const [name = '', limit = ''] = item.trim().split('=');
    if (!isQuotaName(name) || !/^(?:\d{1,15}|unlimited)$/.test(limit)) {
      throw new InvalidValueError(
        `It must be limits such as running_sandboxes=50,vcpus=unlimited, of ${QUOTA_NAMES.join(', ')}.`,
      );
    }
    return [name, limit === 'unlimited' ? null : Number(limit)];
  });
  return { ...DEFAULT_QUOTAS, ...Object.fromEntries(limits) };
}

/** As {@link parseQuotas} reads them. */
export function formatQuotas(limits: QuotaLimits): string {
  return QUOTA_NAMES.map((name) => `${name}=${limits[name] ?? 'unlimited'}`).join(',');
}

/** The path of a file or directory, made absolute. */
export function path(text: string, directory: string): string {
  return resolve(directory, text);
}

/** The path of a program, made absolute, or a name to look up on the `PATH`. */
export function program(text: string, directory: string): string {
  return text.includes('/') ? resolve(directory, text) : text;
}
