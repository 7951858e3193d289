import { type SandboxState, TorporError } from '@torpor/protocol';
import { type Kysely, sql, type Transaction } from 'kysely';
import type { Database, NewSandboxRow, SandboxChanges, SandboxRow } from '../database/schema.ts';
import type { Cursor } from './cursor.ts';

export interface SandboxFilter {
  readonly teamId: string;
  readonly states: readonly SandboxState[];
  readonly template: string | undefined;
  readonly metadata: Readonly<Record<string, string>>;
  readonly after: Cursor | undefined;
  readonly limit: number;
}

/** States in which a sandbox holds, or is about to hold, its memory on the host. */
const STATES_WITH_MEMORY: readonly SandboxState[] = [
  'creating',
  'running',
  'pausing',
  'resuming',
  'snapshotting',
  'destroying',
  'missing',
];

/** The rows of the table `sandboxes`. */
export class SandboxRepository {
  readonly #db: Kysely<Database>;

  constructor(db: Kysely<Database>) {
    this.#db = db;
  }

  /**
   * Inserts a row and with it reserves the sandbox's memory on its host. Concurrent
   * creates are put in order by a lock per host, so they cannot promise the same
   * memory twice. Throws `no_hosts_available`.
   */
  async reserve(row: NewSandboxRow, hostMemoryMb: number): Promise<SandboxRow> {
    return this.#db.transaction().execute(async (transaction) => {
      await promiseMemory(transaction, row.host_id, row.memory_mb, hostMemoryMb);
      return transaction
        .insertInto('sandboxes')
        .values(row)
        .returningAll()
        .executeTakeFirstOrThrow();
    });
  }

  /** The same for a sandbox that holds no memory now and is to get some. Throws `no_hosts_available`. */
  async reserveAgain(row: SandboxRow, to: SandboxState, hostMemoryMb: number): Promise<void> {
    await this.#db.transaction().execute(async (transaction) => {
      await promiseMemory(transaction, row.host_id, row.memory_mb, hostMemoryMb);
      await transaction
        .updateTable('sandboxes')
        .set({ state: to, reason: null, updated_at: new Date() })
        .where('id', '=', row.id)
        .where('state', '=', row.state)
        .execute();
    });
  }

  /** Takes over a sandbox that the host has and the database does not know. */
  async adopt(row: NewSandboxRow): Promise<boolean> {
    const result = await this.#db
      .insertInto('sandboxes')
      .values(row)
      .onConflict((conflict) => conflict.column('id').doNothing())
      .executeTakeFirst();
    return result.numInsertedOrUpdatedRows === 1n;
  }

  find(teamId: string, id: string): Promise<SandboxRow | undefined> {
    return this.#db
      .selectFrom('sandboxes')
      .selectAll()
      .where('id', '=', id)
      .where('team_id', '=', teamId)
      .executeTakeFirst();
  }

  findAnywhere(id: string): Promise<SandboxRow | undefined> {
    return this.#db.selectFrom('sandboxes').selectAll().where('id', '=', id).executeTakeFirst();
  }

  async teamExists(teamId: string): Promise<boolean> {
    const row = await this.#db
      .selectFrom('teams')
      .select('id')
      .where('id', '=', teamId)
      .executeTakeFirst();
    return row !== undefined;
  }

  /** Newest first. */
  list(filter: SandboxFilter): Promise<SandboxRow[]> {
    let query = this.#db
      .selectFrom('sandboxes')
      .selectAll()
      .where('team_id', '=', filter.teamId)
      .where('state', 'in', filter.states);
    if (filter.template !== undefined) query = query.where('template', '=', filter.template);
    if (Object.keys(filter.metadata).length > 0) {
      query = query.where(sql<boolean>`metadata @> ${JSON.stringify(filter.metadata)}::jsonb`);
    }
    if (filter.after !== undefined) {
      const { createdAt, id } = filter.after;
      query = query.where(
        sql<boolean>`(created_at, id) < (${createdAt}::timestamptz, ${id}::text)`,
      );
    }
    return query.orderBy('created_at', 'desc').orderBy('id', 'desc').limit(filter.limit).execute();
  }

  /** All that have not ended on a host, whoever owns them. */
  listLiving(hostId: string): Promise<SandboxRow[]> {
    return this.#db
      .selectFrom('sandboxes')
      .selectAll()
      .where('host_id', '=', hostId)
      .where('state', '<>', 'stopped')
      .execute();
  }

  /** Removes the rows of sandboxes that were destroyed longer ago; returns how many. */
  async removeStopped(keepMs: number): Promise<number> {
    const { numDeletedRows } = await this.#db
      .deleteFrom('sandboxes')
      .where('state', '=', 'stopped')
      .where('ended_at', '<=', new Date(Date.now() - keepMs))
      .executeTakeFirstOrThrow();
    return Number(numDeletedRows);
  }

  async countByState(): Promise<ReadonlyMap<SandboxState, number>> {
    const rows = await this.#db
      .selectFrom('sandboxes')
      .select(['state', sql<string>`count(*)`.as('count')])
      .where('state', '<>', 'stopped')
      .groupBy('state')
      .execute();
    return new Map(rows.map((row) => [row.state, Number(row.count)]));
  }

  /**
   * Changes a row, unless the sandbox has ended: nothing brings back a stopped one.
   * `from` also asks that the row is still in one of these states. Returns the row
   * as it is now, or undefined if it was not changed.
   */
  update(
    id: string,
    changes: SandboxChanges,
    from?: readonly SandboxState[],
  ): Promise<SandboxRow | undefined> {
    let query = this.#db
      .updateTable('sandboxes')
      .set({ updated_at: new Date(), ...changes })
      .where('id', '=', id)
      .where('state', '<>', 'stopped');
    if (from !== undefined) query = query.where('state', 'in', from);
    return query.returningAll().executeTakeFirst();
  }

  /** Notes that a running sandbox is in use. */
  async touch(id: string): Promise<void> {
    await this.#db
      .updateTable('sandboxes')
      .set({ last_active_at: new Date() })
      .where('id', '=', id)
      .where('state', '=', 'running')
      .execute();
  }
}

/** Holds the host's lock until the end of the transaction. Throws `no_hosts_available`. */
async function promiseMemory(
  transaction: Transaction<Database>,
  hostId: string,
  memoryMb: number,
  hostMemoryMb: number,
): Promise<void> {
  await sql`select pg_advisory_xact_lock(hashtextextended(${`host:${hostId}`}, 0))`.execute(
    transaction,
  );
  const { total } = await transaction
    .selectFrom('sandboxes')
    .select(sql<string>`coalesce(sum(memory_mb), 0)`.as('total'))
    .where('host_id', '=', hostId)
    .where('state', 'in', STATES_WITH_MEMORY)
    .executeTakeFirstOrThrow();
  const free = hostMemoryMb - Number(total);
  if (memoryMb <= free) return;
  throw new TorporError(
    'no_hosts_available',
    `No host has ${memoryMb} MB of memory free for the sandbox: ${Math.max(free, 0)} of ${hostMemoryMb} MB are not promised to others.`,
  );
}
