import { createHash } from 'node:crypto';
import { canonicalApiKey, newApiKey, newId, TorporError } from '@torpor/protocol';
import type { Kysely, Transaction } from 'kysely';
import type { Database } from '../database/schema.ts';
import type { Principal } from './principal.ts';

/** How exact `last_used_at` is: one write per key and minute. */
const LAST_USED_RESOLUTION_MS = 60_000;
const SHOWN_PREFIX_LENGTH = 10;

/**
 * Keys are stored as their SHA-256 only. A key has 160 random bits, so a plain hash
 * is enough, and the time that a lookup by hash takes reveals nothing about the keys that
 * exist.
 */
export class ApiKeyStore {
  readonly #db: Kysely<Database>;

  constructor(db: Kysely<Database>) {
    this.#db = db;
  }

  /** The principal of a key in either of its forms. Throws `unauthorized`. */
  async authenticate(key: string | undefined): Promise<Principal> {
    if (key === undefined || key === '') {
      throw new TorporError('unauthorized', 'The request has no API key.');
    }
    const canonical = canonicalApiKey(key);
    const row = canonical === undefined ? undefined : await this.#find(canonical);
    if (row === undefined) throw new TorporError('unauthorized', 'The API key is not valid.');
    const lastUsed = row.last_used_at?.getTime() ?? 0;
    if (Date.now() - lastUsed > LAST_USED_RESOLUTION_MS) {
      await this.#db
        .updateTable('api_keys')
        .set({ last_used_at: new Date() })
        .where('id', '=', row.id)
        .execute();
    }
    return { teamId: row.team_id, apiKeyId: row.id };
  }

  #find(canonicalKey: string) {
    return this.#db
      .selectFrom('api_keys')
      .select(['id', 'team_id', 'last_used_at'])
      .where('key_hash', '=', hashApiKey(canonicalKey))
      .executeTakeFirst();
  }
}

/** Creates a key for a team and returns it. It cannot be retrieved later. */
export async function createApiKey(
  transaction: Transaction<Database>,
  teamId: string,
  name: string,
): Promise<string> {
  const key = newApiKey();
  await transaction
    .insertInto('api_keys')
    .values({
      id: newId('apiKey'),
      team_id: teamId,
      name,
      key_hash: hashApiKey(key),
      key_prefix: key.slice(0, SHOWN_PREFIX_LENGTH),
      last_used_at: null,
    })
    .execute();
  return key;
}

function hashApiKey(canonicalKey: string): string {
  return createHash('sha256').update(canonicalKey).digest('hex');
}
