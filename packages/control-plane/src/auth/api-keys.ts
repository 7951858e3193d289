import { createHash } from 'node:crypto';
import { canonicalApiKey, newApiKey, newId, type Permission, TorporError } from '@torpor/protocol';
import type { Kysely, Selectable, Transaction } from 'kysely';
import type { ApiKeyTable, Database } from '../database/schema.ts';
import type { Principal } from './principal.ts';

/** How exact `last_used_at` is: one write per key and minute. */
const LAST_USED_RESOLUTION_MS = 60_000;
const SHOWN_PREFIX_LENGTH = 10;

/** A key without its hash. */
export type ApiKey = Omit<Selectable<ApiKeyTable>, 'key_hash'>;

/** A key that was just created: the only time that it can be seen. */
export interface CreatedApiKey {
  readonly row: ApiKey;
  readonly key: string;
}

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
      throw new TorporError('unauthorized', 'The request has no API key, and no session.');
    }
    const canonical = canonicalApiKey(key);
    const row = canonical === undefined ? undefined : await this.#find(canonical);
    if (row === undefined) throw new TorporError('unauthorized', 'The API key is not valid.');
    const { id, name, expires_at: expiresAt } = row;
    if (expiresAt !== null && expiresAt.getTime() <= Date.now()) {
      throw new TorporError(
        'unauthorized',
        `The API key ${row.key_prefix}… expired at ${expiresAt.toISOString()}.`,
      );
    }
    await this.#recordUse(row);
    return {
      teamId: row.team_id,
      actor: { type: 'api_key', id, name },
      permissions: new Set(row.scopes),
      onBehalfOf: row.user_id ?? undefined,
    };
  }

  #find(canonicalKey: string): Promise<ApiKey | undefined> {
    return this.#db
      .selectFrom('api_keys')
      .select(API_KEY_COLUMNS)
      .where('key_hash', '=', hashApiKey(canonicalKey))
      .executeTakeFirst();
  }

  async #recordUse({ id, last_used_at: lastUsed }: ApiKey): Promise<void> {
    if (Date.now() - (lastUsed?.getTime() ?? 0) <= LAST_USED_RESOLUTION_MS) return;
    await this.#db
      .updateTable('api_keys')
      .set({ last_used_at: new Date() })
      .where('id', '=', id)
      .execute();
  }
}

/** Those of {@link ApiKey}. */
export const API_KEY_COLUMNS = [
  'id',
  'team_id',
  'name',
  'key_prefix',
  'scopes',
  'created_by',
  'user_id',
  'created_at',
  'last_used_at',
  'expires_at',
] as const satisfies readonly (keyof ApiKey)[];

export interface NewApiKey {
  readonly teamId: string;
  readonly name: string;
  readonly scopes: readonly Permission[];
  readonly createdBy: string | null;
  /** The user from whom its scopes come. */
  readonly userId: string | null;
  readonly expiresAt?: Date | undefined;
}

/** Makes a key and its row. */
export async function insertApiKey(
  transaction: Transaction<Database>,
  { teamId, name, scopes, createdBy, userId, expiresAt }: NewApiKey,
): Promise<CreatedApiKey> {
  const key = newApiKey();
  const row = await transaction
    .insertInto('api_keys')
    .values({
      id: newId('apiKey'),
      team_id: teamId,
      name,
      key_hash: hashApiKey(key),
      key_prefix: key.slice(0, SHOWN_PREFIX_LENGTH),
      scopes: [...new Set(scopes)],
      created_by: createdBy,
      user_id: userId,
      last_used_at: null,
      expires_at: expiresAt ?? null,
    })
    .returning(API_KEY_COLUMNS)
    .executeTakeFirstOrThrow();
  return { row, key };
}

function hashApiKey(canonicalKey: string): string {
  return createHash('sha256').update(canonicalKey).digest('hex');
}
