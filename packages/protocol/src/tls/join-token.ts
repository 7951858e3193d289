import { randomBytes } from 'node:crypto';

/**
 * What a machine needs to join: a secret, and which authority it may trust. The fingerprint
 * makes the first contact authentic: the secret is sent only to a server with a certificate of
 * that authority.
 */
export interface JoinToken {
  /** 40 hexadecimal digits (160 bits). */
  readonly secret: string;
  /** SHA-256 of the certificate of the authority, as 64 hexadecimal digits. */
  readonly authorityFingerprint: string;
}

const PATTERN = /^tpj_([0-9a-f]{40})_([0-9a-f]{64})$/;

export function newJoinToken(authorityFingerprint: string): string {
  return `tpj_${randomBytes(20).toString('hex')}_${authorityFingerprint}`;
}

/** Undefined for what is no token. */
export function parseJoinToken(text: string): JoinToken | undefined {
  const [, secret, authorityFingerprint] = PATTERN.exec(text) ?? [];
  if (secret === undefined || authorityFingerprint === undefined) return undefined;
  return { secret, authorityFingerprint };
}
