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
 *   ({@link SandboxRepository.adopt}), and marks those of a host that does not respond
 *   ({@link SandboxRepository.markUnreachable}). It holds no lock. So its statement writes
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
import {
  assertTransition,
  isTransitional,
  SANDBOX_STATES,
  type SandboxState,
} from '@torpor/protocol';
import { type Kysely, sql } from 'kysely';
import { SYSTEM } from '../auth/principal.ts';
import type { Cursor } from '../database/page.ts';
import { isOlder, removeRows } from '../database/remove-rows.ts';
import type { Database, NewSandboxRow, SandboxChanges, SandboxRow } from '../database/schema.ts';
import { appendEvents, type OutboxEvent } from '../events/outbox.ts';
import {
  type ComparedRow,
  DEFERRED_DESTROY_REASON,
  type RowReport,
  type SandboxReport,
} from '../hosts/report.ts';
import { reportEvents } from './report-events.ts';

export interface SandboxFilter {
  readonly teamId: string;
  readonly states: readonly SandboxState[];
  readonly template: string | undefined;
  readonly metadata: Readonly<Record<string, string>>;
  readonly after: Cursor | undefined;
  readonly limit: number;
}

/** How many rows are read or written at once. */
const PAGE_SIZE = 500;

/** The states that say nothing any more when the host does not respond. */
const LOSABLE_STATES = SANDBOX_STATES.filter(
  (state) => !['stopped', 'error', 'unreachable', 'missing'].includes(state),
);

const COMPARED_COLUMNS = [
  'id',
  'team_id',
  'state',
  'lost_from',
  'reason',
  'build_id',
  'timeout_sec',
  'auto_pause',
  'created_at',
  'started_at',
  'last_active_at',
  'ended_at',
  'revision',
] as const satisfies readonly (keyof ComparedRow)[];

/** The reports as a table of SQL. `has_address`, `has_build`: null is a value, not an omission. */
function reportTable(reports: readonly RowReport[]) {
  const values = reports.map(({ row: { id, revision }, report }) => ({
    ...report,
    id,
    revision,
    has_address: report.host_ip !== undefined,
    has_build: report.build_id !== undefined,
    versions: report.versions === undefined ? undefined : JSON.parse(report.versions),
  }));
  return sql<ReportedColumns>`jsonb_to_recordset(${JSON.stringify(values)}::jsonb)`.as<'report'>(
    sql`report(id text, revision integer, state text, reason text, host_ip text, has_address boolean,
      build_id text, has_build boolean, timeout_sec integer, versions jsonb, started_at timestamptz,
      ended_at timestamptz)`,
  );
}

type ReportedColumns = Pick<SandboxRow, 'id' | 'revision'>;

/** What a row becomes by the report beside it: what that omits stays. */
const WRITTEN_BY_REPORT = {
  state: sql<SandboxState>`report.state`,
  reason: sql<string | null>`report.reason`,
  host_ip: sql<
    string | null
  >`case when report.has_address then report.host_ip else sandboxes.host_ip end`,
  build_id: sql<
    string | null
  >`case when report.has_build then report.build_id else sandboxes.build_id end`,
  timeout_sec: sql<number>`coalesce(report.timeout_sec, sandboxes.timeout_sec)`,
  versions: sql<string>`coalesce(report.versions, sandboxes.versions)`,
  started_at: sql<Date | null>`coalesce(report.started_at, sandboxes.started_at)`,
  ended_at: sql<Date | null>`coalesce(report.ended_at, sandboxes.ended_at)`,
  lost_from: null,
  updated_at: sql<Date>`clock_timestamp()`,
  revision: sql<number>`sandboxes.revision + 1`,
} as const;

/** No operation of any process has locked the sandbox. */
const UNLOCKED = sql<boolean>`not exists (select from operations where resource = sandboxes.id)`;

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

  /** Locks those rows for the transaction that no other one has locked, and returns them by id. */
  async lockFree(ids: readonly string[]): Promise<ReadonlyMap<string, SandboxRow>> {
    const rows = await this.#db
      .selectFrom('sandboxes')
      .selectAll()
      .where('id', 'in', [...ids, ''])
      .forUpdate()
      .skipLocked()
      .execute();
    return new Map(rows.map((row) => [row.id, row]));
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
  async recordAsHolder(row: ComparedRow, report: SandboxReport): Promise<SandboxRow | undefined> {
    const recorded = await this.#record(row, report).returningAll().executeTakeFirst();
    if (recorded?.state !== row.state) await this.#announce(recorded);
    return recorded;
  }

  /** Like {@link recordAsHolder}, with an event for the change, if it does not settle an operation. */
  async recordChange(row: ComparedRow, report: SandboxReport): Promise<void> {
    if ((await this.recordAsHolder(row, report)) === undefined) return;
    await appendEvents(this.#db, reportEvents(row, report));
  }

  /**
   * Copies the agent's report for the reconciler: writes nothing while an operation has locked
   * the sandbox. Returns whether it was written.
   */
  async recordReport(row: ComparedRow, report: SandboxReport): Promise<boolean> {
    return (await this.recordReports([{ row, report }])).has(row.id);
  }

  /** Like {@link recordReport}, for several rows in one statement. Returns the ids of those that were written. */
  async recordReports(reports: readonly RowReport[]): Promise<ReadonlySet<string>> {
    if (!this.#db.isTransaction) {
      return this.#db
        .transaction()
        .execute((transaction) => new SandboxRepository(transaction).recordReports(reports));
    }
    const recorded = await this.#db
      .updateTable('sandboxes')
      .from(reportTable(reports))
      .set(WRITTEN_BY_REPORT)
      .whereRef('sandboxes.id', '=', 'report.id')
      .whereRef('sandboxes.revision', '=', 'report.revision')
      .where('sandboxes.state', '<>', 'stopped')
      .where(UNLOCKED)
      .returningAll('sandboxes')
      .execute();
    const byId = new Map(recorded.map((row) => [row.id, row]));
    const events = reports.flatMap(({ row, report }) => {
      const written = byId.get(row.id);
      if (written === undefined) return [];
      const isArrival = written.state !== row.state && !isTransitional(written.state);
      return [...(isArrival ? [stateEvent(written)] : []), ...reportEvents(row, report)];
    });
    await appendEvents(this.#db, events);
    return new Set(byId.keys());
  }

  /**
   * Marks sandboxes of a host that does not respond, a page of them, on behalf of the control plane
   * that reconciles it: nothing is written once another does. Those that an operation has locked
   * are left to it. Returns whether there may be more.
   */
  async markUnreachable(hostId: string, controlPlane: string, reason: string): Promise<boolean> {
    const lost = await this.#db.transaction().execute(async (transaction) => {
      const rows = await transaction
        .updateTable('sandboxes')
        .set({ reason, ...written('unreachable') })
        .where(({ eb, selectFrom }) =>
          eb(
            'id',
            'in',
            selectFrom('sandboxes as lost')
              .select('lost.id')
              .where('lost.host_id', '=', hostId)
              .where('lost.state', 'in', LOSABLE_STATES)
              .where('lost.ended_at', 'is', null)
              .where(sql<boolean>`not (lost.state = 'destroying' and lost.started_at is null)`)
              .where(reconciledBy(hostId, controlPlane))
              .where(sql<boolean>`not exists (select from operations where resource = lost.id)`)
              .orderBy('lost.id')
              .limit(PAGE_SIZE)
              .forUpdate()
              .skipLocked(),
          ),
        )
        .returningAll()
        .execute();
      const report = { state: 'unreachable', reason } as const;
      await appendEvents(
        transaction,
        rows.flatMap((row) => [
          ...reportEvents({ ...row, state: row.lost_from ?? row.state }, report),
          stateEvent(row),
        ]),
      );
      return rows.length;
    });
    return lost === PAGE_SIZE;
  }

  /** Adopts a sandbox that the host has and the database does not know. Returns false if it has a row, or the host no longer exists. */
  adopt(row: NewSandboxRow): Promise<boolean> {
    return this.#db.transaction().execute(async (transaction) => {
      const host = await transaction
        .selectFrom('host_usage')
        .select('host_id')
        .where('host_id', '=', row.host_id)
        // A deletion in progress would not find the row.
        .forUpdate()
        .executeTakeFirst();
      if (host === undefined) return false;
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

  /**
   * Those of a host that are not stopped, of every team, in the order of their ids after `afterId`;
   * a page, which is the last if it is empty. Only the columns that reports are compared with.
   */
  pageLiving(hostId: string, afterId: string): Promise<ComparedRow[]> {
    return this.#db
      .selectFrom('sandboxes')
      .select(COMPARED_COLUMNS)
      .where('host_id', '=', hostId)
      .where('state', '<>', 'stopped')
      .where('id', '>', afterId)
      .orderBy('id')
      .limit(PAGE_SIZE)
      .execute();
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

  /**
   * Ends a sandbox for its team, whose host will destroy it when it responds again. In the
   * transaction of an operation that holds the lock.
   */
  async deferDestroy(row: ComparedRow): Promise<void> {
    if (row.ended_at !== null) return;
    const { state } = row;
    const report = { state, reason: DEFERRED_DESTROY_REASON, ended_at: new Date() };
    const ended = await this.recordAsHolder(row, report);
    if (ended !== undefined) await appendEvents(this.#db, [stateEvent(ended)]);
  }

  /** Appends the event of a row that has come to a state in which it stays, in the transaction that wrote it. */
  async #announce(row: SandboxRow | undefined): Promise<void> {
    if (row === undefined || isTransitional(row.state)) return;
    await appendEvents(this.#db, [stateEvent(row)]);
  }

  #record(row: ComparedRow, report: SandboxReport) {
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

/** The event of a state, from which usage is counted. */
function stateEvent(row: SandboxRow): OutboxEvent {
  const { id, team_id: teamId, state, vcpus, memory_mb, disk_size_mb } = row;
  const metadata = {
    state,
    vcpus: String(vcpus),
    memory_mb: String(memory_mb),
    ...(disk_size_mb === null || hasNoDisk(row) ? {} : { disk_mb: String(disk_size_mb) }),
  };
  const kind = 'sandbox.state';
  return { kind, resource: id, teamId, actor: SYSTEM, metadata, status: 'success' };
}

/** The columns of every write of a state. */
function written(state: SandboxState) {
  // Written again, it keeps what it was.
  const before = sql<SandboxState>`coalesce(sandboxes.lost_from, sandboxes.state)`;
  return {
    state,
    lost_from: state === 'unreachable' ? before : null,
    updated_at: new Date(),
    revision: sql<number>`sandboxes.revision + 1`,
  };
}

/** Whether the control plane reconciles the host, or none does and its agent does not report. */
function reconciledBy(hostId: string, controlPlane: string) {
  return sql<boolean>`exists (select from hosts where id = ${hostId} and (reconciled_by = ${controlPlane}
    or (reconciled_by is null and state = 'unreachable')))`;
}
