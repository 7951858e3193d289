import { type Kysely, sql } from 'kysely';
import { PLATFORM_TEAM_ID } from '../auth/roles.ts';
import type { Cursor, Page } from '../database/page.ts';
import type { Database, NewTemplateRow, TemplateRow } from '../database/schema.ts';

export interface PublishedTemplate {
  readonly row: TemplateRow;
  /** The previous snapshot of the name; its state is `deleting` now. */
  readonly replaced: TemplateRow | undefined;
}

/**
 * The rows of the table `templates`. An operation that holds the lock of a name inserts,
 * publishes and marks its rows. Any control plane may lock one that is `deleting`, have its hosts
 * release it, and remove its row when the last has. Which hosts have a build is written with the
 * row, before a host is asked to make it, and corrected by what hosts list (sweeper.ts).
 */
export class TemplateRepository {
  readonly #db: Kysely<Database>;

  constructor(db: Kysely<Database>) {
    this.#db = db;
  }

  /** Finds a template of the team that can be used. */
  find(teamId: string, name: string): Promise<TemplateRow | undefined> {
    return this.#db
      .selectFrom('templates')
      .selectAll()
      .where('team_id', '=', teamId)
      .where('name', '=', name)
      .where('state', '=', 'ready')
      .executeTakeFirst();
  }

  /** Finds what a name means to the team: its own template, or else that of the platform. */
  async findUsable(teamId: string, name: string): Promise<TemplateRow | undefined> {
    return (await this.find(teamId, name)) ?? (await this.find(PLATFORM_TEAM_ID, name));
  }

  /** Whether the platform has a template of the name, or is making one. */
  async isOfPlatform(name: string): Promise<boolean> {
    const row = await this.#db
      .selectFrom('templates')
      .select('id')
      .where('team_id', '=', PLATFORM_TEAM_ID)
      .where('name', '=', name)
      .where('state', 'in', ['pending', 'ready'])
      .limit(1)
      .executeTakeFirst();
    return row !== undefined;
  }

  /** Until the end of the transaction, no other one gives the name to a template of any team. */
  async lockName(name: string): Promise<void> {
    await sql`select pg_advisory_xact_lock(hashtextextended(${`template:${name}`}, 0))`.execute(
      this.#db,
    );
  }

  findReady(teamId: string, id: string): Promise<TemplateRow | undefined> {
    return this.#db
      .selectFrom('templates')
      .selectAll()
      .where('id', '=', id)
      .where('team_id', '=', teamId)
      .where('state', '=', 'ready')
      .executeTakeFirst();
  }

  findDeleting(id: string): Promise<TemplateRow | undefined> {
    return this.#db
      .selectFrom('templates')
      .selectAll()
      .where('id', '=', id)
      .where('state', '=', 'deleting')
      .executeTakeFirst();
  }

  /** The templates that the team can use, newest first: each name once, as `findUsable` finds it. */
  list(teamId: string, { after, limit }: Page<Cursor>): Promise<TemplateRow[]> {
    return this.#db
      .selectFrom('templates')
      .selectAll()
      .where('team_id', 'in', [teamId, PLATFORM_TEAM_ID])
      .where('state', '=', 'ready')
      .where(({ or, eb, not, exists, selectFrom }) =>
        or([
          eb('team_id', '=', teamId),
          not(
            exists(
              selectFrom('templates as own')
                .select('own.id')
                .where('own.team_id', '=', teamId)
                .whereRef('own.name', '=', 'templates.name')
                .where('own.state', '=', 'ready'),
            ),
          ),
        ]),
      )
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

  /** Inserts a template that the host is to keep; within a transaction. */
  async insert(row: NewTemplateRow, hostId: string): Promise<TemplateRow> {
    const inserted = await this.#db
      .insertInto('templates')
      .values(row)
      .returningAll()
      .executeTakeFirstOrThrow();
    await this.#db
      .insertInto('template_hosts')
      .values({ template_id: inserted.id, host_id: hostId })
      .execute();
    return inserted;
  }

  /** The hosts that have its build, or may have it. */
  async hostsOf(id: string): Promise<string[]> {
    const rows = await this.#db
      .selectFrom('template_hosts')
      .select('host_id')
      .where('template_id', '=', id)
      .orderBy('host_id')
      .execute();
    return rows.map((row) => row.host_id);
  }

  /** Records that a host was found to have the build. Does nothing if either no longer exists. */
  async recordHost(id: string, hostId: string): Promise<void> {
    await this.#db
      .insertInto('template_hosts')
      .columns(['template_id', 'host_id'])
      .expression((eb) =>
        eb
          .selectFrom('hosts')
          .innerJoin('templates', (join) => join.on('templates.id', '=', id))
          .select(['templates.id', 'hosts.id as host_id'])
          .where('hosts.id', '=', hostId)
          .forKeyShare(),
      )
      .onConflict((conflict) => conflict.doNothing())
      .execute();
  }

  /** Assigns the name to a pending template, and takes it from the previous one; within a transaction. */
  async publish(
    id: string,
    facts: Pick<TemplateRow, 'build_id' | 'vcpus' | 'memory_mb' | 'disk_size_mb'> & {
      readonly size_bytes: number;
    },
  ): Promise<PublishedTemplate> {
    const replaced = await this.#db
      .updateTable('templates as old')
      .set({ state: 'deleting' })
      .from('templates as new')
      .where('new.id', '=', id)
      .whereRef('old.team_id', '=', 'new.team_id')
      .whereRef('old.name', '=', 'new.name')
      .where('old.state', '=', 'ready')
      .returningAll('old')
      .executeTakeFirst();
    const row = await this.#db
      .updateTable('templates')
      .set({ ...facts, state: 'ready', created_at: sql`clock_timestamp()` })
      .where('id', '=', id)
      .where('state', '=', 'pending')
      .returningAll()
      .executeTakeFirstOrThrow();
    return { row, replaced };
  }

  /** From here on its name no longer refers to it. */
  async markDeleting(id: string): Promise<void> {
    await this.#db
      .updateTable('templates')
      .set({ state: 'deleting' })
      .where('id', '=', id)
      .execute();
  }

  /** The templates of a name that are being created. */
  listPending(teamId: string, name: string): Promise<TemplateRow[]> {
    return this.#db
      .selectFrom('templates')
      .selectAll()
      .where('team_id', '=', teamId)
      .where('name', '=', name)
      .where('state', '=', 'pending')
      .execute();
  }

  /** The templates of a host that are being created or removed. */
  unsettled(hostId: string): Promise<TemplateRow[]> {
    return this.#db
      .selectFrom('templates')
      .innerJoin('template_hosts', 'template_id', 'templates.id')
      .selectAll('templates')
      .where('host_id', '=', hostId)
      .where('state', '<>', 'ready')
      .execute();
  }

  /** The ids of templates that can be used, and of which a host has the build. */
  async readyOn(hostId: string): Promise<string[]> {
    const rows = await this.#db
      .selectFrom('templates')
      .innerJoin('template_hosts', 'template_id', 'templates.id')
      .select('templates.id')
      .where('host_id', '=', hostId)
      .where('state', '=', 'ready')
      .execute();
    return rows.map(({ id }) => id);
  }

  /** Those of these ids that have a row, in any state; `recorded` if it names the host. */
  async known(
    hostId: string,
    ids: readonly string[],
  ): Promise<ReadonlyMap<string, Pick<TemplateRow, 'team_id' | 'state'> & { recorded: boolean }>> {
    if (ids.length === 0) return new Map();
    const rows = await this.#db
      .selectFrom('templates')
      .leftJoin('template_hosts', (join) =>
        join.onRef('template_id', '=', 'templates.id').on('host_id', '=', hostId),
      )
      .select(['templates.id', 'team_id', 'state', 'host_id'])
      .where('templates.id', 'in', ids)
      .execute();
    return new Map(
      rows.map(({ id, host_id, ...row }) => [id, { ...row, recorded: host_id !== null }]),
    );
  }

  /** Those of these ids that were given up with a deleted host. */
  async givenUp(ids: readonly string[]): Promise<ReadonlySet<string>> {
    if (ids.length === 0) return new Set();
    const rows = await this.#db
      .selectFrom('given_up')
      .select('id')
      .where('id', 'in', ids)
      .execute();
    return new Set(rows.map(({ id }) => id));
  }

  /** Records that a host has lost the build of a template that can be used. Returns whether it was recorded to have it. */
  async recordLoss(id: string, hostId: string): Promise<boolean> {
    const lost = await this.#db
      .deleteFrom('template_hosts')
      .using('templates')
      .whereRef('template_id', '=', 'templates.id')
      .where('template_id', '=', id)
      .where('host_id', '=', hostId)
      .where('state', '=', 'ready')
      .returning('template_id')
      .executeTakeFirst();
    return lost !== undefined;
  }

  /** Records that a host has released a template that is `deleting`; within a transaction. */
  async recordRelease(id: string, hostId: string): Promise<void> {
    await this.#db
      .deleteFrom('template_hosts')
      .where('template_id', '=', id)
      .where('host_id', '=', hostId)
      .execute();
  }

  /** Removes the row of a template that every host has released. */
  async removeReleased(id: string): Promise<void> {
    await this.#db
      .deleteFrom('templates')
      .where('id', '=', id)
      .where('state', '=', 'deleting')
      .where(({ not, exists, selectFrom }) =>
        not(exists(selectFrom('template_hosts').select('host_id').where('template_id', '=', id))),
      )
      .execute();
  }
}
