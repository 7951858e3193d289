import { MEMBER_PERMISSIONS, type Permission, TorporError } from '@torpor/protocol';
import { type Kysely, sql, type Transaction } from 'kysely';
import {
  API_KEY_COLUMNS,
  type ApiKey,
  type CreatedApiKey,
  insertApiKey,
} from '../auth/api-keys.ts';
import type { Principal } from '../auth/principal.ts';
import type { Cursor, Page } from '../database/page.ts';
import type { Database, EventKind } from '../database/schema.ts';
import { appendEvents } from '../events/outbox.ts';
import { type CreateRecord, UNRECORDED } from '../idempotency/keys.ts';
import { lockPermission } from './membership.ts';
import type { Quotas } from './quotas.ts';

export interface ApiKeyRequest {
  readonly name: string;
  /** What every member may do if omitted. */
  readonly scopes?: readonly Permission[] | undefined;
  readonly expiresAt?: Date | undefined;
}

interface Parts {
  readonly db: Kysely<Database>;
  readonly quotas: Quotas;
  /** Called after a transaction with events. */
  readonly onEvents: () => void;
}

/** The API keys of teams: created, listed and revoked. */
export class ApiKeyService {
  readonly #parts: Parts;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  /** A key that is made with a key that expires does not outlive it. Throws `forbidden` for that and for a scope that the creator does not have, `invalid_request` for a time that has passed, `quota_exceeded`. */
  async create(
    principal: Principal,
    request: ApiKeyRequest,
    record: CreateRecord = UNRECORDED,
  ): Promise<CreatedApiKey> {
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
      await lockPermission(transaction, principal, 'keys.write', ...scopes);
      await this.#parts.quotas.require(transaction, teamId, { api_keys: 1 });
      const latest = await expiryOf(transaction, principal);
      if (latest !== undefined && expiresAt !== undefined && expiresAt > latest) {
        throw outlivesCreator(latest);
      }
      const made = await insertApiKey(transaction, {
        teamId,
        name,
        scopes,
        createdBy: actor.id,
        userId: principal.onBehalfOf ?? null,
        expiresAt: expiresAt ?? latest,
      });
      await appendKeyEvent(transaction, 'api_key.create', principal, made.row);
      await record.record(transaction, { ids: [made.row.id], secret: made.key });
      return made;
    });
    this.#parts.onEvents();
    return created;
  }

  /** Throws `not_found`, also for one that has been revoked. */
  async get({ teamId }: Principal, id: string): Promise<ApiKey> {
    return this.#parts.db
      .selectFrom('api_keys')
      .select(API_KEY_COLUMNS)
      .where('id', '=', id)
      .where('team_id', '=', teamId)
      .executeTakeFirstOrThrow(unknownKey);
  }

  /** The keys of the team, newest first; expired ones too. */
  list({ teamId }: Principal, { after, limit }: Page<Cursor>): Promise<ApiKey[]> {
    return this.#parts.db
      .selectFrom('api_keys')
      .select(API_KEY_COLUMNS)
      .where('team_id', '=', teamId)
      .$if(after !== undefined, (query) =>
        query.where(
          sql<boolean>`(created_at, id) < (${after?.createdAt}::timestamptz, ${after?.id}::text)`,
        ),
      )
      .orderBy('created_at', 'desc')
      .orderBy('id', 'desc')
      .$if(limit !== undefined, (query) => query.limit(limit ?? 0))
      .execute();
  }

  /** From the next request on the key is not valid. Throws `not_found`. */
  async revoke(principal: Principal, id: string): Promise<void> {
    await this.#parts.db.transaction().execute(async (transaction) => {
      const row = await transaction
        .deleteFrom('api_keys')
        .where('id', '=', id)
        .where('team_id', '=', principal.teamId)
        .returning(API_KEY_COLUMNS)
        .executeTakeFirst();
      if (row === undefined) throw unknownKey();
      await appendKeyEvent(transaction, 'api_key.revoke', principal, row);
    });
    this.#parts.onEvents();
  }
}

/** When the key of the principal expires; undefined if it does not, or for a user. */
async function expiryOf(
  transaction: Transaction<Database>,
  { actor, teamId }: Principal,
): Promise<Date | undefined> {
  if (actor.type !== 'api_key') return undefined;
  const key = await transaction
    .selectFrom('api_keys')
    .select('expires_at')
    .where('id', '=', actor.id)
    .where('team_id', '=', teamId)
    .forShare()
    .executeTakeFirst();
  if (key === undefined) {
    throw new TorporError('unauthorized', 'The API key was revoked in the meantime.');
  }
  return key.expires_at ?? undefined;
}

function outlivesCreator(latest: Date): TorporError {
  return new TorporError(
    'forbidden',
    `A key cannot be valid for longer than the key that makes it, until ${latest.toISOString()}.`,
    { remedy: 'Give an earlier time, or log in and make it yourself.' },
  );
}

function unknownKey(): TorporError {
  return new TorporError('not_found', 'The team has no API key with this id.');
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
