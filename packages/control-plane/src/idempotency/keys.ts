/**
 * Requests that may be sent again: the first with an idempotency key is handled, and others
 * with the key get its response, for a day.
 *
 * A key is claimed by an attempt with a lease, which the attempt extends while it handles the
 * request. Another request with the key waits until there is a response. If the lease
 * expires, the process of the attempt has died, and the request that waits takes over. What
 * the attempt made is in the row of the key: it is recorded in the transaction that makes it
 * ({@link CreateRecord.record}), which fails once another attempt handles the request. So either
 * something was made, and is known, or nothing was and nothing will be, and the next attempt
 * may begin from the start.
 */
import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { runOutsideRequest, TorporError } from '@torpor/protocol';
import { type Kysely, type Selectable, sql, type Transaction } from 'kysely';
import type { Logger } from 'pino';
import { z } from 'zod';
import type { SecretBox } from '../auth/secret-box.ts';
import { isOlder, removeRows } from '../database/remove-rows.ts';
import type { Database, IdempotencyKeyTable } from '../database/schema.ts';

const KEEP_MS = 24 * 60 * 60_000;
const DEFAULT_LEASE_MS = 30_000;
const POLL_MS = 50;
const LONGEST_POLL_MS = 500;
/** Of what is encrypted, and of fingerprints. */
const PURPOSE = 'idempotency';

const madeSchema = z.object({
  ids: z.array(z.string()),
  secret: z.string().optional(),
  refused: z.array(z.object({ code: z.string(), message: z.string() })).optional(),
});

/** What a request has made, so that its response can be composed again. */
export type Made = Readonly<z.infer<typeof madeSchema>>;

const responseSchema = z.object({ status: z.number(), body: z.unknown() });

/** A response with a JSON body. */
export type StoredResponse = z.infer<typeof responseSchema>;

/** Notes what a create makes. */
export interface CreateRecord {
  /**
   * Call it in the transaction that makes it, or, with undefined, that removes it because it came to
   * nothing. Throws `conflict` if another attempt handles the request.
   */
  record(transaction: Transaction<Database>, made: Made | undefined): Promise<void>;
}

/** Of a request without a key. */
export const UNRECORDED: CreateRecord = { record: async () => undefined };

export interface KeyedRequest {
  readonly teamId: string;
  /** Chosen by the client. */
  readonly key: string;
  /** Of {@link IdempotencyKeys.fingerprint}. */
  readonly fingerprint: string;
}

interface Parts {
  readonly db: Kysely<Database>;
  readonly secrets: SecretBox;
  readonly logger: Logger;
  readonly leaseMs?: number | undefined;
}

type Row = Selectable<IdempotencyKeyTable>;

export class IdempotencyKeys {
  readonly #parts: Parts;
  readonly #leaseMs: number;

  constructor(parts: Parts) {
    this.#parts = parts;
    this.#leaseMs = parts.leaseMs ?? DEFAULT_LEASE_MS;
  }

  /** Tells requests apart without storing what is in them. */
  fingerprint(request: unknown): string {
    return this.#parts.secrets.fingerprint(PURPOSE, JSON.stringify(sorted(request)));
  }

  /**
   * The response to the request, or the right to handle it. Waits while another attempt handles
   * it, until `signal` aborts. Throws `idempotency_key_reused`.
   */
  async claim(request: KeyedRequest, signal: AbortSignal): Promise<Claim | StoredResponse> {
    for (let waitMs = POLL_MS; ; waitMs = Math.min(waitMs * 1.5, LONGEST_POLL_MS)) {
      const found = (await this.#insert(request)) ?? (await this.#find(request));
      if (found instanceof Claim) return found;
      if (found === undefined) continue;
      const { fingerprint, response, lapsed, old } = found;
      if (old && (response !== null || lapsed)) {
        await this.#forget(found);
        continue;
      }
      if (fingerprint !== request.fingerprint) throw reused();
      if (response !== null) return this.#open(responseSchema, response);
      const taken = lapsed ? await this.#takeOver(found) : undefined;
      if (taken !== undefined) return taken;
      await delay(waitMs, undefined, { signal }).catch(() => {
        throw new TorporError('conflict', 'The client disconnected.');
      });
    }
  }

  /** Removes what is older than a day. */
  async removeOld(): Promise<void> {
    const isOld = sql<boolean>`${isOlder('created_at', KEEP_MS)} and expires_at < clock_timestamp()`;
    await removeRows(this.#parts.db, 'idempotency_keys', isOld);
  }

  /** For the only process on a database: every attempt has died. */
  async expireAll(): Promise<void> {
    await this.#parts.db
      .updateTable('idempotency_keys')
      .set({ expires_at: sql`clock_timestamp()` })
      .where('response', 'is', null)
      .execute();
  }

  async #insert({ teamId, key, fingerprint }: KeyedRequest): Promise<Claim | undefined> {
    const row = await this.#parts.db
      .insertInto('idempotency_keys')
      .values({
        team_id: teamId,
        key,
        fingerprint,
        holder: randomUUID(),
        expires_at: this.#expiry(),
      })
      .onConflict((conflict) => conflict.columns(['team_id', 'key']).doNothing())
      .returningAll()
      .executeTakeFirst();
    return row === undefined ? undefined : this.#claimed(row);
  }

  #find({ teamId, key }: KeyedRequest) {
    return this.#parts.db
      .selectFrom('idempotency_keys')
      .selectAll()
      .select([
        sql<boolean>`expires_at <= clock_timestamp()`.as('lapsed'),
        sql<boolean>`created_at < now() - make_interval(secs => ${KEEP_MS / 1000})`.as('old'),
      ])
      .where('team_id', '=', teamId)
      .where('key', '=', key)
      .executeTakeFirst();
  }

  async #forget(row: Row): Promise<void> {
    await this.#parts.db
      .deleteFrom('idempotency_keys')
      .where('team_id', '=', row.team_id)
      .where('key', '=', row.key)
      .where('holder', '=', row.holder)
      .execute();
  }

  async #takeOver({ team_id, key, holder }: Row): Promise<Claim | undefined> {
    const row = await this.#parts.db
      .updateTable('idempotency_keys')
      .set({ holder: randomUUID(), expires_at: this.#expiry() })
      .where('team_id', '=', team_id)
      .where('key', '=', key)
      .where('holder', '=', holder)
      .where('response', 'is', null)
      .where('expires_at', '<=', sql<Date>`clock_timestamp()`)
      .returningAll()
      .executeTakeFirst();
    return row === undefined ? undefined : this.#claimed(row);
  }

  #claimed(row: Row): Claim {
    const { db, secrets, logger } = this.#parts;
    return new Claim({
      row,
      made: row.made === null ? undefined : this.#open(madeSchema, row.made),
      db,
      seal: (value) => secrets.seal(PURPOSE, JSON.stringify(value)),
      logger,
      leaseMs: this.#leaseMs,
    });
  }

  #open<T>(schema: z.ZodType<T>, sealed: string): T {
    return schema.parse(JSON.parse(this.#parts.secrets.open(PURPOSE, sealed)));
  }

  #expiry() {
    return expiryIn(this.#leaseMs);
  }
}

interface ClaimParts {
  readonly row: Row;
  readonly made: Made | undefined;
  readonly db: Kysely<Database>;
  readonly seal: (value: unknown) => string;
  readonly logger: Logger;
  readonly leaseMs: number;
}

/** The right to handle a request with a key. Dispose of it in the end: others take over then, unless there is a response. */
export class Claim implements CreateRecord, AsyncDisposable {
  readonly #parts: ClaimParts;
  readonly #renewal: NodeJS.Timeout;
  #made: Made | undefined;
  #isFinished = false;

  constructor(parts: ClaimParts) {
    this.#parts = parts;
    this.#made = parts.made;
    this.#renewal = runOutsideRequest(() =>
      setInterval(() => void this.#renew(), parts.leaseMs / 3).unref(),
    );
  }

  /** What this attempt or an earlier one has made. */
  get made(): Made | undefined {
    return this.#made;
  }

  async record(transaction: Transaction<Database>, made: Made | undefined): Promise<void> {
    const { numUpdatedRows } = await this.#update(transaction)
      .set({ made: made === undefined ? null : this.#parts.seal(made) })
      .executeTakeFirstOrThrow();
    if (numUpdatedRows === 0n) {
      throw new TorporError('conflict', 'Another attempt handles this request now.');
    }
    this.#made = made;
  }

  /** Whether anything was made, by the row: the transaction in which it was recorded may have failed. */
  async settle(): Promise<Made | undefined> {
    if (this.#made === undefined) return undefined;
    const { row, db } = this.#parts;
    const found = await db
      .selectFrom('idempotency_keys')
      .select('made')
      .where('team_id', '=', row.team_id)
      .where('key', '=', row.key)
      .executeTakeFirst()
      .catch(() => this.#parts.row);
    return found?.made === null ? undefined : this.#made;
  }

  /** Everyone else with the key gets this response. If it cannot be stored, they get that for what was made. */
  async finish(response: StoredResponse): Promise<void> {
    const { db, seal, logger } = this.#parts;
    try {
      await this.#update(db)
        .set({ response: seal(response) })
        .execute();
      this.#isFinished = true;
    } catch (reason) {
      logger.warn({ err: TorporError.from(reason) }, 'Could not store the response to a request');
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#renewal);
    if (this.#isFinished) return;
    try {
      await this.#update(this.#parts.db).set({ expires_at: sql`clock_timestamp()` }).execute();
    } catch (reason) {
      const err = TorporError.from(reason);
      this.#parts.logger.warn({ err }, 'Could not give up an idempotency key; it will expire');
    }
  }

  async #renew(): Promise<void> {
    const { db, logger, leaseMs } = this.#parts;
    try {
      await this.#update(db)
        .set({ expires_at: expiryIn(leaseMs) })
        .execute();
    } catch (reason) {
      const err = TorporError.from(reason);
      logger.warn({ err }, 'Could not renew the lease of an idempotency key; will retry');
    }
  }

  #update(db: Kysely<Database>) {
    const { row } = this.#parts;
    return db
      .updateTable('idempotency_keys')
      .where('team_id', '=', row.team_id)
      .where('key', '=', row.key)
      .where('holder', '=', row.holder);
  }
}

function expiryIn(leaseMs: number) {
  return sql<Date>`clock_timestamp() + make_interval(secs => ${leaseMs / 1000})`;
}

function reused(): TorporError {
  return new TorporError(
    'idempotency_key_reused',
    'The idempotency key was used for another request.',
  );
}

/** The same value with the members of objects in one order. */
function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== 'object' || value === null) return value;
  const members = Object.entries(value).filter(([, member]) => member !== undefined);
  return Object.fromEntries(
    members
      .toSorted(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, member]) => [name, sorted(member)]),
  );
}
