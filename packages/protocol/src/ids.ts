import { randomBytes } from 'node:crypto';

/** The kinds of ids, with their prefixes. */
export const ID_PREFIXES = {
  sandbox: 'sb',
  team: 'tm',
  user: 'us',
  apiKey: 'key',
  session: 'ses',
  invitation: 'inv',
  identity: 'idn',
  host: 'ho',
  template: 'tpl',
  webhook: 'wh',
  audit: 'log',
} as const;

export type IdKind = keyof typeof ID_PREFIXES;

const ALPHABET = 'abcdefghijklmnopqrstuvwxyz0123456789';
const ID_LENGTH = 20;

/**
 * A new random id: the prefix of its kind and 20 characters of `[a-z0-9]`
 * (103 bits). It has no dash, because a sandbox id is part of host names of the
 * form `PORT-ID.domain`.
 */
export function newId(kind: IdKind): string {
  let id = ID_PREFIXES[kind] as string;
  while (id.length < ID_PREFIXES[kind].length + ID_LENGTH) {
    for (const byte of randomBytes(ID_LENGTH)) {
      // 252 = 7 × 36: a byte above it would favour the first letters.
      if (byte >= 252) continue;
      id += ALPHABET[byte % ALPHABET.length];
      if (id.length === ID_PREFIXES[kind].length + ID_LENGTH) break;
    }
  }
  return id;
}

/** Whether `value` has the form of an id of this kind; it may not exist. */
export function isId(kind: IdKind, value: string): boolean {
  const prefix = ID_PREFIXES[kind];
  return value.startsWith(prefix) && /^[a-z0-9]{20}$/.test(value.slice(prefix.length));
}

const API_KEY_PATTERN = /^(?:tpr|e2b)_([0-9a-f]{40})$/;

/** A new API key: `tpr_` and 40 hexadecimal digits (160 bits). */
export function newApiKey(): string {
  return `tpr_${randomBytes(20).toString('hex')}`;
}

/**
 * The canonical `tpr_` form of an API key, or undefined for anything else. The
 * prefix `e2b_` is accepted too, because older E2B SDKs require it.
 */
export function canonicalApiKey(key: string): string | undefined {
  const match = API_KEY_PATTERN.exec(key);
  return match === null ? undefined : `tpr_${match[1]}`;
}
