/**
 * One operation at a time per sandbox and per name of a snapshot, across all control
 * planes that share a database.
 *
 * Within one process the order is first come, first served. Between processes the right
 * to change a resource is a lease: a row of the table `operations` with its holder, what
 * it is doing for whom, and an expiry, which its process extends while the operation
 * runs. Times are from the database's clock. (Why leases rather than advisory locks:
 * docs/decisions.md.)
 *
 * Consequences:
 * - A process that died, or hung for longer than a lease lasts, loses its leases. The
 *   operation that takes one over learns which operation was `abandoned`, and settles it
 *   before anything else.
 * - A process that only hung may still believe that it holds a lease. So every write of
 *   an operation confirms its leases in the transaction of the write ({@link confirm}):
 *   it fails once another holder has acquired the lease. Its calls to the agent have a fence (operations/fence.ts).
 * - The last write of an operation releases its leases in the same transaction
 *   ({@link release}). So a lease that still exists means that the operation has not
 *   completed.
 */
import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { REMEDIES, runOutsideRequest, TorporError } from '@torpor/protocol';
import { type Kysely, type Selectable, sql, type Transaction } from 'kysely';
import type { Logger } from 'pino';
import type { Actor } from '../auth/principal.ts';
import type { Database, OperationKind, OperationTable } from '../database/schema.ts';
import { currentTransaction } from '../database/transactions.ts';

/** Long enough to survive a stalled process or database, short enough to wait for. */
const DEFAULT_LEASE_MS = 30_000;

const RETRY_MS = 50;
const LONGEST_RETRY_MS = 500;

/** What an operation does and for whom; kept in its leases for the process that may have to finish it. */
export interface Intent {
  readonly kind: OperationKind;
  readonly teamId: string | null;
  readonly actor: Actor;
}

/** The right to change one resource. */
export interface Lease {
  readonly resource: string;
  /** An operation that stopped without completing and must be settled first. */
  readonly abandoned: Intent | undefined;
}

/** A lease that has expired. */
export interface AbandonedLease {
  readonly resource: string;
  readonly intent: Intent;
}

/** The leases of one operation. */
export interface HeldLocks {
  readonly holder: string;
  readonly leases: readonly Lease[];
  /**
   * `unfinished`: an operation has begun and its outcome has not been written; if it stays so,
   * the leases are abandoned. `released`: by the transaction that completed the operation.
   */
  state: 'clean' | 'unfinished' | 'released';
}

interface Parts {
  readonly db: Kysely<Database>;
  readonly logger: Logger;
  readonly leaseMs?: number | undefined;
}

export class OperationLocks {
  readonly #db: Kysely<Database>;
  readonly #logger: Logger;
  readonly leaseMs: number;
  /** Identifies the process in the holders of its leases. */
  readonly #process = `${process.pid}-${randomBytes(6).toString('hex')}`;
  #count = 0;
  /** Per resource: resolves when the last operation queued in this process is done. */
  readonly #queues = new Map<string, Promise<unknown>>();
  readonly #held = new Set<string>();
  #renewal: NodeJS.Timeout | undefined;
  readonly #releaseListeners = new Set<(resource: string) => void>();

  constructor({ db, logger, leaseMs = DEFAULT_LEASE_MS }: Parts) {
    this.#db = db;
    this.#logger = logger;
    this.leaseMs = leaseMs;
  }

  /**
   * `listener` is called when this process no longer has a running or waiting operation on a
   * resource, until the returned function is called.
   */
  onReleased(listener: (resource: string) => void): () => void {
    this.#releaseListeners.add(listener);
    return () => void this.#releaseListeners.delete(listener);
  }

  /** Whether this process has a running or waiting operation on the resource. */
  isBusyHere(resource: string): boolean {
    return this.#queues.has(resource);
  }

  /**
   * Runs `operation` with a lease of each resource, after earlier operations of this process.
   * All leases are taken at once or none, so that two operations cannot deadlock.
   */
  run<T>(
    resources: readonly string[],
    intent: Intent,
    operation: (held: HeldLocks) => Promise<T>,
  ): Promise<T> {
    return this.#enqueue(resources, async () =>
      this.#holding(await this.#acquire(resources, intent), operation),
    );
  }

  /** Like {@link run}, but returns undefined if any process has an operation on the resource. */
  async tryRun<T>(
    resource: string,
    intent: Intent,
    operation: (held: HeldLocks) => Promise<T>,
  ): Promise<T | undefined> {
    if (this.#queues.has(resource)) return undefined;
    return this.#enqueue([resource], async () => {
      const held = await this.#tryAcquire([resource], intent);
      return held === undefined ? undefined : this.#holding(held, operation);
    });
  }

  /** The leases of operations that stopped without completing. */
  async abandoned(): Promise<AbandonedLease[]> {
    const rows = await this.#db
      .selectFrom('operations')
      .selectAll()
      .where('expires_at', '<=', sql<Date>`clock_timestamp()`)
      .execute();
    return rows.map((row) => ({ resource: row.resource, intent: intentOf(row) }));
  }

  /** For the only process on a database: every existing lease was abandoned. */
  async expireAll(): Promise<void> {
    await this.#db.updateTable('operations').set({ expires_at: sql`clock_timestamp()` }).execute();
  }

  /** Throws `conflict` unless all leases are still held. They then stay held until the end of the transaction. */
  async confirm(transaction: Transaction<Database>, held: HeldLocks): Promise<void> {
    const rows = await transaction
      .selectFrom('operations')
      .select('resource')
      .where('holder', '=', held.holder)
      .orderBy('resource')
      .forUpdate()
      .execute();
    if (rows.length === held.leases.length) return;
    throw new TorporError(
      'conflict',
      'Another control plane has finished this operation, because this one did not renew its lease in time.',
      { remedy: REMEDIES.lookAndRetry },
    );
  }

  /** Makes the lease describe its own operation, after the abandoned one has been settled. */
  async describeAcquired(
    transaction: Transaction<Database>,
    { holder }: HeldLocks,
    resource: string,
    intent: Intent,
  ): Promise<void> {
    await transaction
      .updateTable('operations')
      .set({ begun_by: holder, ...columnsOf(intent) })
      .where('resource', '=', resource)
      .where('holder', '=', holder)
      .execute();
  }

  /**
   * Releases the leases in the transaction that completes their operation.
   * Returns the id of that transaction.
   */
  async release(transaction: Transaction<Database>, { holder }: HeldLocks): Promise<string> {
    const { id } = await transaction
      .deleteFrom('operations')
      .where('holder', '=', holder)
      .returning(currentTransaction().as('id'))
      .executeTakeFirstOrThrow();
    return id;
  }

  /** Resolves when this process has no operations. */
  async idle(): Promise<void> {
    while (this.#queues.size > 0) await Promise.all(this.#queues.values());
  }

  /** Runs `operation` after the earlier ones on any of the resources. */
  #enqueue<T>(resources: readonly string[], operation: () => Promise<T>): Promise<T> {
    const before = resources.map((resource) => this.#queues.get(resource));
    const result = Promise.all(before).then(operation);
    const end = result.then(
      () => undefined,
      () => undefined,
    );
    for (const resource of resources) this.#queues.set(resource, end);
    void end.then(() => {
      for (const resource of resources) {
        if (this.#queues.get(resource) !== end) continue;
        this.#queues.delete(resource);
        for (const listener of this.#releaseListeners) listener(resource);
      }
    });
    return result;
  }

  async #acquire(resources: readonly string[], intent: Intent): Promise<HeldLocks> {
    for (let waitMs = RETRY_MS; ; waitMs = Math.min(waitMs * 1.5, LONGEST_RETRY_MS)) {
      const held = await this.#tryAcquire(resources, intent);
      if (held !== undefined) return held;
      // Jitter.
      await delay(waitMs * (0.5 + Math.random()));
    }
  }

  async #tryAcquire(resources: readonly string[], intent: Intent): Promise<HeldLocks | undefined> {
    this.#count += 1;
    const holder = `${this.#process}-${this.#count}`;
    const rows = await this.#db
      .insertInto('operations')
      .values(
        // In order, so that two statements do not deadlock on the rows.
        resources.toSorted().map((resource) => ({
          resource,
          holder,
          begun_by: holder,
          expires_at: this.#expiry(),
          ...columnsOf(intent),
        })),
      )
      .onConflict((conflict) =>
        conflict
          .column('resource')
          .doUpdateSet({ holder, expires_at: this.#expiry() })
          .where('operations.expires_at', '<=', sql<Date>`clock_timestamp()`),
      )
      .returningAll()
      .execute();
    const leases = rows.map((row) => ({
      resource: row.resource,
      abandoned: row.begun_by === holder ? undefined : intentOf(row),
    }));
    const isClean = leases.every(({ abandoned }) => abandoned === undefined);
    const held: HeldLocks = { holder, leases, state: isClean ? 'clean' : 'unfinished' };
    if (leases.length === resources.length) return held;
    if (leases.length > 0) await this.#giveBack(held);
    return undefined;
  }

  async #holding<T>(held: HeldLocks, operation: (held: HeldLocks) => Promise<T>): Promise<T> {
    this.#held.add(held.holder);
    this.#renewal ??= runOutsideRequest(() =>
      setInterval(() => void this.#renew(), this.leaseMs / 3).unref(),
    );
    try {
      return await operation(held);
    } finally {
      this.#held.delete(held.holder);
      if (this.#held.size === 0) {
        clearInterval(this.#renewal);
        this.#renewal = undefined;
      }
      await this.#giveBack(held).catch((reason: unknown) => {
        const err = TorporError.from(reason);
        this.#logger.warn(
          { err, holder: held.holder },
          'Could not release a lease; it will expire',
        );
      });
    }
  }

  async #giveBack({ holder, state }: HeldLocks): Promise<void> {
    if (state === 'released') return;
    if (state === 'unfinished') {
      await this.#db
        .updateTable('operations')
        .set({ expires_at: sql`clock_timestamp()` })
        .where('holder', '=', holder)
        .execute();
    } else {
      await this.#db.deleteFrom('operations').where('holder', '=', holder).execute();
    }
  }

  async #renew(): Promise<void> {
    try {
      await this.#db
        .updateTable('operations')
        .set({ expires_at: this.#expiry() })
        .where('resource', 'in', (leases) =>
          leases
            .selectFrom('operations')
            .select('resource')
            .where('holder', 'in', [...this.#held])
            // Not those that were released while this waited for a connection.
            .where('expires_at', '>', sql<Date>`clock_timestamp()`)
            // Skips rows that are being written: waiting for several in any order could deadlock.
            .forUpdate()
            .skipLocked(),
        )
        .execute();
    } catch (reason) {
      this.#logger.warn({ err: TorporError.from(reason) }, 'Could not renew leases; will retry');
    }
  }

  #expiry() {
    return sql<Date>`clock_timestamp() + make_interval(secs => ${this.leaseMs / 1000})`;
  }
}

function columnsOf({ kind, teamId, actor }: Intent) {
  return {
    kind,
    team_id: teamId,
    actor_type: actor.type,
    actor_id: actor.id,
    actor_name: actor.name,
  };
}

function intentOf(row: Selectable<OperationTable>): Intent {
  const actor = { type: row.actor_type, id: row.actor_id, name: row.actor_name };
  return { kind: row.kind, teamId: row.team_id, actor };
}
