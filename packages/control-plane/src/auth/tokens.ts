import { createHash, randomBytes } from 'node:crypto';

const TOKEN_BYTES = 32;

/** The kinds of secret tokens, by their prefixes. */
export const TOKEN_PREFIXES = { session: 'tps_', invitation: 'tpi_', password: 'tpp_' } as const;

export type TokenKind = keyof typeof TOKEN_PREFIXES;

/** A new token with 256 random bits. */
export function newToken(kind: TokenKind): string {
  return `${TOKEN_PREFIXES[kind]}${randomBytes(TOKEN_BYTES).toString('base64url')}`;
}

export function isToken(kind: TokenKind, text: string): boolean {
  const prefix = TOKEN_PREFIXES[kind];
  return text.startsWith(prefix) && /^[A-Za-z0-9_-]{43}$/.test(text.slice(prefix.length));
}

/**
 * What is stored of a token. A plain hash is enough for random bits, and the time of a lookup
 * by it reveals nothing about the tokens that exist.
 */
export function hashToken(token: string): string {
  return createHash('sha256').update(token).digest('hex');
}
