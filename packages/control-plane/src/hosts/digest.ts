import { createHash } from 'node:crypto';

/** SHA-256, as 64 hexadecimal digits. */
export function sha256(data: string | ArrayBuffer): string {
  const bytes = typeof data === 'string' ? data : new Uint8Array(data);
  return createHash('sha256').update(bytes).digest('hex');
}
