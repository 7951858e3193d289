import type { Transaction } from 'kysely';
import { hashToken, newToken } from '../auth/tokens.ts';
import type { Database } from '../database/schema.ts';

/** With which a user sets a password, once. */
export interface PasswordLink {
  readonly token: string;
  readonly expiresAt: Date;
}

/** Replaces the one that the user has. */
export async function insertLink(
  transaction: Transaction<Database>,
  userId: string,
  lifetimeMs: number,
): Promise<PasswordLink> {
  const token = newToken('password');
  const expiresAt = new Date(Date.now() + lifetimeMs);
  const link = { token_hash: hashToken(token), expires_at: expiresAt };
  await transaction
    .insertInto('password_links')
    .values({ user_id: userId, ...link })
    .onConflict((conflict) => conflict.column('user_id').doUpdateSet(link))
    .execute();
  return { token, expiresAt };
}
