import type { Kysely } from 'kysely';
import type { SecretBox } from '../auth/secret-box.ts';
import type { Database } from '../database/schema.ts';
import type { Authority } from './authority.ts';

/** Opens the authority at the first call; again at the next one if that fails. */
export function authorityOnce(db: Kysely<Database>, secrets: SecretBox): () => Promise<Authority> {
  let opened: Promise<Authority> | undefined;
  return () => {
    opened ??= open(db, secrets).catch((reason: unknown) => {
      opened = undefined;
      throw reason;
    });
    return opened;
  };
}

async function open(db: Kysely<Database>, secrets: SecretBox): Promise<Authority> {
  // Loaded here: its library takes 25 MB, which a server without other hosts does not need.
  const { Authority } = await import('./authority.ts');
  return Authority.open(db, secrets);
}
