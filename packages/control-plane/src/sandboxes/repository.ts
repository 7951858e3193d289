/**
 * The rows of the table `sandboxes`, and the rules by which they are written.
 *
 * The agent of a sandbox's host decides what the sandbox does, the database which sandboxes
 * exist. Who may write a row, and when:
 *
 * - **An operation** (operations/runner.ts) that holds the sandbox's lock. It creates the row
 *   ({@link SandboxRepository.insert}), and changes its state by
 *   {@link SandboxRepository.transition}: only as the table of `@torpor/protocol` allows, and
 *   only if the row is still in the state that the operation has read. A create may move it to
 *   another host before any has made it, and removes it if none did. Every such write is in
 *   a transaction that has confirmed the lock.
 * - **An operation that failed, or one that settles an abandoned one**, copies what the
 *   agent reports ({@link SandboxRepository.recordAsHolder}): only the agent knows how far
 *   it got, so the report need not follow the table. It holds the lock too.
 * - **The reconciler** (hosts/reconciler.ts) copies what the agent reports by itself
 *   ({@link SandboxRepository.recordReport}), adopts sandboxes without a row
 *   ({@link SandboxRepository.adopt}), and marks those of an unreachable host
 *   ({@link SandboxRepository.markMissing}). It holds no lock. So its statement writes
 *   nothing if the row has been written since it was read (`revision`), or if any process has
 *   a lease on the sandbox: then the row belongs to that operation, or to its recovery. These
 *   reports need not follow the table either; a change of state that they cause has its own
 *   event (sandboxes/report-events.ts).
 * - **The deletion of a host** ends the sandboxes that are given up with it (hosted.ts), by the
 *   same statement.
 * - **A request that uses a sandbox** only updates the time of its last use
 *   ({@link SandboxRepository.touch}).
 *
 * Every write that brings a row to a state in which it stays appends the event
 * `sandbox.state`, from which usage is counted (events/usage.ts).
 *
 * A row that is `stopped` is never written again: a destroyed sandbox stays destroyed.
 * {@link SandboxRepository.removeStopped} removes it after a while.
 */
import { assertTransition, isTransitional, type SandboxState } from '@torpor/protocol';
import { type Kysely, sql } from 'kysely';
import { SYSTEM } from '../auth/principal.ts';
import type { Cursor } from '../database/page.ts';
import { isOlder, removeRows } from '../database/remove-rows.ts';
import type { Database, NewSandboxRow, SandboxChanges, SandboxRow } from '../database/schema.ts';
import { appendEvents } from '../events/outbox.ts';
import type { SandboxReport } from '../hosts/report.ts';
import { reportEvents } from './report-events.ts';

export interface SandboxFilter {
  readonly teamId: string;
  readonly states: readonly SandboxState[];
  readonly template: string | undefined;
  readonly metadata: Readonly<Record<string, string>>;
  readonly after: Cursor | undefined;
  readonly limit: number;
}

/** The columns that an operation may change together with the state. */
export type TransitionChanges = Omit<SandboxChanges, 'id' | 'state' | 'revision' | 'updated_at'>;

export class SandboxRepository {
  readonly #db: Kysely<Database>;

  constructor(db: Kysely<Database>) {
    this.#db = db;
  }

  /** Inserts new sandboxes, in state `creating`. */
  async insert(rows: readonly NewSandboxRow[]): Promise<SandboxRow[]> {
    const inserted = await this.#db
      .insertInto('sandboxes')
      .values(rows.map((row) => ({ ...row, state: 'creating' as const })))
      .returningAll()
      .execute();
    const byId = new Map(inserted.map((row) => [row.id, row]));
    return rows.flatMap(({ id }) => byId.get(id) ?? []);
  }

  /**
   * Changes a sandbox's state, and other columns with it. Returns the new row, or undefined if
   * it is no longer in the state `from`. Throws `invalid_state` for a transition that the
   * table does not allow.
   */
  async transition(
    id: string,
    from: SandboxState,
    to: SandboxState,
    changes: TransitionChanges = {},
  ): Promise<SandboxRow | undefined> {
    assertTransition(id, from, to);
    const row = await this.#db
      .updateTable('sandboxes')
      .set({ ...changes, ...written(to) })
      .where('id', '=', id)
      .where('state', '=', from)
      .returningAll()
      .executeTakeFirst();
    await this.#announce(row);
    return row;
  }

  /** Locks rows for the transaction. Before those of hosts: others wait with a sandbox for its host. */
  async lock(ids: readonly string[]): Promise<void> {
    await this.#db
      .selectFrom('sandboxes')
      .select('id')
      .where('id', 'in', [...ids, ''])
      .orderBy('id')
      .forUpdate()
      .execute();
  }

  /** Moves a sandbox that no host has to the host on which its operation has reserved room. */
  async move(id: string, hostId: string): Promise<SandboxRow | undefined> {
    return this.#db
      .updateTable('sandboxes')
      .set({ host_id: hostId, ...written('creating') })
      .where('id', '=', id)
      .where('state', '=', 'creating')
      .returningAll()
      .executeTakeFirst();
  }

  /** Removes a sandbox that no host has had. */
  async removeUnmade(id: string): Promise<void> {
    await this.#db
      .deleteFrom('sandboxes')
      .where('id', '=', id)
      .where('state', '=', 'creating')
      .execute();
  }

  /**
   * Copies the agent's report into a row, for an operation that holds the lock. Returns the
   * new row, or undefined if it has been written since it was read.
   */
  async recordAsHolder(row: SandboxRow, report: SandboxReport): Promise<SandboxRow | undefined> {
    const recorded = await this.#record(row, report).returningAll().executeTakeFirst();
    if (recorded?.state !== row.state) await this.#announce(recorded);
    return recorded;
  }

  /** Like {@link recordAsHolder}, with an event for the change, if it does not settle an operation. */
  async recordChange(row: SandboxRow, report: SandboxReport): Promise<void> {
    if ((await this.recordAsHolder(row, report)) === undefined) return;
    await appendEvents(this.#db, reportEvents(row, report));
  }

  /**
   * Copies the agent's report for the reconciler: writes nothing while an operation has locked
   * the sandbox. Returns whether it was written.
   */
  async recordReport(row: SandboxRow, report: SandboxReport): Promise<boolean> {
    if (!this.#db.isTransaction) {
      return this.#db
        .transaction()
        .execute((transaction) => new SandboxRepository(transaction).recordReport(row, report));
    }
    const isWritten = await this.#recordUnheld(row, report);
    if (isWritten) await appendEvents(this.#db, reportEvents(row, report));
    return isWritten;
  }

  async #recordUnheld(row: SandboxRow, report: SandboxReport): Promise<boolean> {
    const recorded = await this.#record(row, report)
      .where(({ not, exists, selectFrom }) =>
        not(
          exists(
            selectFrom('operations')
              .select('operations.resource')
              .whereRef('operations.resource', '=', 'sandboxes.id'),
          ),
        ),
      )
      .returningAll()
      .executeTakeFirst();
    if (recorded?.state !== row.state) await this.#announce(recorded);
    return recorded !== undefined;
  }

  /** Marks a sandbox whose host does not respond. */
  async markMissing(row: SandboxRow, reason: string): Promise<boolean> {
    assertTransition(row.id, row.state, 'missing');
    return this.recordReport(row, { state: 'missing', reason });
  }

  /** Adopts a sandbox that the host has and the database does not know. Returns false if it has a row. */
  adopt(row: NewSandboxRow): Promise<boolean> {
    return this.#db.transaction().execute(async (transaction) => {
      const adopted = await transaction
        .insertInto('sandboxes')
        .values(row)
        .onConflict((conflict) => conflict.column('id').doNothing())
        .returningAll()
        .executeTakeFirst();
      if (adopted === undefined) return false;
      await appendEvents(transaction, [
        {
          kind: 'sandbox.adopt',
          resource: row.id,
          teamId: row.team_id,
          actor: SYSTEM,
          status: 'success',
        },
      ]);
      await new SandboxRepository(transaction).#announce(adopted);
      return true;
    });
  }

  find(teamId: string, id: string): Promise<SandboxRow | undefined> {
    return this.#db
      .selectFrom('sandboxes')
      .selectAll()
      .where('id', '=', id)
      .where('team_id', '=', teamId)
      .executeTakeFirst();
  }

  findById(id: string): Promise<SandboxRow | undefined> {
    return this.#db.selectFrom('sandboxes').selectAll().where('id', '=', id).executeTakeFirst();
  }

  /** Whether it was given up with a deleted host. */
  async wasGivenUp(id: string): Promise<boolean> {
    const row = await this.#db
      .selectFrom('given_up')
      .select('id')
      .where('id', '=', id)
      .executeTakeFirst();
    return row !== undefined;
  }

  /** Whether a host and a team exist, and the host may have sandboxes of the team. */
  async mayHost(hostId: string, teamId: string): Promise<boolean> {
    const row = await this.#db
      .selectFrom('teams')
      .innerJoin('hosts', (join) => join.on('hosts.id', '=', hostId))
      .select('teams.id')
      .where('teams.id', '=', teamId)
      .where(({ eb, or }) =>
        or([eb('hosts.team_id', 'is', null), eb('hosts.team_id', '=', teamId)]),
      )
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
    // Lets the indexes be used that have no destroyed sandboxes.
    if (!filter.states.includes('stopped')) query = query.where('state', '<>', 'stopped');
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

  /** All sandboxes of a host that are not stopped, of every team. */
  listLiving(hostId: string): Promise<SandboxRow[]> {
    return this.#db
      .selectFrom('sandboxes')
      .selectAll()
      .where('host_id', '=', hostId)
      .where('state', '<>', 'stopped')
      .execute();
  }

  /** Removes the rows of sandboxes that were destroyed more than `keepMs` ago; returns how many. */
  removeStopped(keepMs: number): Promise<number> {
    const isExpired = sql<boolean>`state = 'stopped' and ${isOlder('ended_at', keepMs)}`;
    return removeRows(this.#db, 'sandboxes', isExpired);
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

  /** Updates the time of a running sandbox's last use. */
  async touch(id: string): Promise<void> {
    await this.#db
      .updateTable('sandboxes')
      .set({ last_active_at: new Date() })
      .where('id', '=', id)
      .where('state', '=', 'running')
      .execute();
  }

  /** Appends the event of a row that has come to a state in which it stays, in the transaction that wrote it. */
  async #announce(row: SandboxRow | undefined): Promise<void> {
    if (row === undefined || isTransitional(row.state)) return;
    const { id, team_id: teamId, state, vcpus, memory_mb, disk_size_mb } = row;
    const metadata = {
      state,
      vcpus: String(vcpus),
      memory_mb: String(memory_mb),
      ...(disk_size_mb === null || hasNoDisk(row) ? {} : { disk_mb: String(disk_size_mb) }),
    };
    const event = { kind: 'sandbox.state', resource: id, teamId, actor: SYSTEM, metadata } as const;
    await appendEvents(this.#db, [{ ...event, status: 'success' }]);
  }

  #record(row: SandboxRow, report: SandboxReport) {
    return this.#db
      .updateTable('sandboxes')
      .set({ ...report, ...written(report.state) })
      .where('id', '=', row.id)
      .where('revision', '=', row.revision)
      .where('state', '<>', 'stopped');
  }
}

/** Whether its create failed, and the host has removed what there was of it. */
function hasNoDisk({ state, started_at }: SandboxRow): boolean {
  return state === 'error' && started_at === null;
}

/** The columns of every write of a state. */
function written(state: SandboxState) {
  return { state, updated_at: new Date(), revision: sql<number>`sandboxes.revision + 1` };
}
