import { createHash } from 'node:crypto';
import {
  canonicalApiKey,
  MEMBER_PERMISSIONS,
  newApiKey,
  newId,
  type Permission,
  TorporError,
} from '@torpor/protocol';
import type { Kysely, Selectable, Transaction } from 'kysely';
import type { ApiKeyTable, Database, EventKind } from '../database/schema.ts';
import { appendEvents } from '../events/outbox.ts';
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

export interface ApiKeyRequest {
  readonly name: string;
  /** What every member may do if omitted. */
  readonly scopes?: readonly Permission[] | undefined;
  readonly expiresAt?: Date | undefined;
}

interface Parts {
  readonly db: Kysely<Database>;
  /** Called after a transaction with events. */
  readonly onEvents: () => void;
}

/**
 * Keys are stored as their SHA-256 only. A key has 160 random bits, so a plain hash
 * is enough, and the time that a lookup by hash takes reveals nothing about the keys that
 * exist.
 */
export class ApiKeyStore {
  readonly #parts: Parts;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  /** The principal of a key in either of its forms. Throws `unauthorized`. */
  async authenticate(key: string | undefined): Promise<Principal> {
    if (key === undefined || key === '') {
      throw new TorporError('unauthorized', 'The request has no API key.');
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
    };
  }

  /** Throws `forbidden` for a scope that the creator does not have, `invalid_request` for a time that has passed. */
  async create(principal: Principal, request: ApiKeyRequest): Promise<CreatedApiKey> {
    const { name, expiresAt } = request;
    const scopes = request.scopes ?? MEMBER_PERMISSIONS;
    const missing = scopes.find((scope) => !principal.permissions.has(scope));
    if (missing !== undefined) {
      throw new TorporError(
        'forbidden',
        `A key cannot have the scope ${missing}: its creator does not have that permission.`,
        { remedy: 'Name only scopes that you have yourself.' },
      );
    }
    if (expiresAt !== undefined && expiresAt.getTime() <= Date.now()) {
      throw new TorporError('invalid_request', `The time ${expiresAt.toISOString()} has passed.`, {
        remedy: 'Give a time in the future.',
      });
    }
    const created = await this.#parts.db.transaction().execute(async (transaction) => {
      const { teamId, actor } = principal;
      const made = await insertApiKey(transaction, {
        teamId,
        name,
        scopes,
        createdBy: actor.id,
        expiresAt,
      });
      await appendKeyEvent(transaction, 'api_key.create', principal, made.row);
      return made;
    });
    this.#parts.onEvents();
    return created;
  }

  /** The keys of the team, newest first; expired ones too. */
  list({ teamId }: Principal): Promise<ApiKey[]> {
    return this.#parts.db
      .selectFrom('api_keys')
      .select(SHOWN_COLUMNS)
      .where('team_id', '=', teamId)
      .orderBy('created_at', 'desc')
      .orderBy('id', 'desc')
      .execute();
  }

  /** From the next request on the key is not valid. Throws `not_found`. */
  async revoke(principal: Principal, id: string): Promise<void> {
    await this.#parts.db.transaction().execute(async (transaction) => {
      const row = await transaction
        .deleteFrom('api_keys')
        .where('id', '=', id)
        .where('team_id', '=', principal.teamId)
        .returning(SHOWN_COLUMNS)
        .executeTakeFirst();
      if (row === undefined) {
        throw new TorporError('not_found', 'The team has no API key with this id.');
      }
      await appendKeyEvent(transaction, 'api_key.revoke', principal, row);
    });
    this.#parts.onEvents();
  }

  #find(canonicalKey: string): Promise<ApiKey | undefined> {
    return this.#parts.db
      .selectFrom('api_keys')
      .select(SHOWN_COLUMNS)
      .where('key_hash', '=', hashApiKey(canonicalKey))
      .executeTakeFirst();
  }

  async #recordUse({ id, last_used_at: lastUsed }: ApiKey): Promise<void> {
    if (Date.now() - (lastUsed?.getTime() ?? 0) <= LAST_USED_RESOLUTION_MS) return;
    await this.#parts.db
      .updateTable('api_keys')
      .set({ last_used_at: new Date() })
      .where('id', '=', id)
      .execute();
  }
}

const SHOWN_COLUMNS = [
  'id',
  'team_id',
  'name',
  'key_prefix',
  'scopes',
  'created_by',
  'created_at',
  'last_used_at',
  'expires_at',
] as const satisfies readonly (keyof ApiKey)[];

interface NewApiKey {
  readonly teamId: string;
  readonly name: string;
  readonly scopes: readonly Permission[];
  readonly createdBy: string | null;
  readonly expiresAt?: Date | undefined;
}

/** Makes a key and its row. */
export async function insertApiKey(
  transaction: Transaction<Database>,
  { teamId, name, scopes, createdBy, expiresAt }: NewApiKey,
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
      last_used_at: null,
      expires_at: expiresAt ?? null,
    })
    .returning(SHOWN_COLUMNS)
    .executeTakeFirstOrThrow();
  return { row, key };
}

async function appendKeyEvent(
  transaction: Transaction<Database>,
  kind: EventKind,
  { teamId, actor }: Principal,
  row: ApiKey,
): Promise<void> {
  const metadata = { name: row.name, prefix: row.key_prefix, scopes: row.scopes.join(' ') };
  await appendEvents(transaction, [
    { kind, resource: row.id, teamId, actor, status: 'success', metadata },
  ]);
}

function hashApiKey(canonicalKey: string): string {
  return createHash('sha256').update(canonicalKey).digest('hex');
}
