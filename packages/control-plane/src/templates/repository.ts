import { type Kysely, sql } from 'kysely';
import type { Cursor, Page } from '../database/page.ts';
import type { Database, NewTemplateRow, TemplateRow } from '../database/schema.ts';

export interface PublishedTemplate {
  readonly row: TemplateRow;
  /** The previous snapshot of the name; its state is `deleting` now. */
  readonly replaced: TemplateRow | undefined;
}

/**
 * The rows of the table `templates`. An operation that holds the lock of a name inserts,
 * publishes and marks its rows. Any control plane may lock one that is `deleting`, release it and
 * remove its row.
 */
export class TemplateRepository {
  readonly #db: Kysely<Database>;

  constructor(db: Kysely<Database>) {
    this.#db = db;
  }

  /** Finds a template that can be used. */
  find(teamId: string, name: string): Promise<TemplateRow | undefined> {
    return this.#db
      .selectFrom('templates')
      .selectAll()
      .where('team_id', '=', teamId)
      .where('name', '=', name)
      .where('state', '=', 'ready')
      .executeTakeFirst();
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

  /** The templates that can be used, newest first. */
  list(teamId: string, { after, limit }: Page<Cursor>): Promise<TemplateRow[]> {
    return this.#db
      .selectFrom('templates')
      .selectAll()
      .where('team_id', '=', teamId)
      .where('state', '=', 'ready')
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

  insert(row: NewTemplateRow): Promise<TemplateRow> {
    return this.#db.insertInto('templates').values(row).returningAll().executeTakeFirstOrThrow();
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
      .selectAll()
      .where('host_id', '=', hostId)
      .where('state', '<>', 'ready')
      .execute();
  }

  /** Which of these ids have a row, in any state. */
  async known(ids: readonly string[]): Promise<ReadonlySet<string>> {
    if (ids.length === 0) return new Set();
    const rows = await this.#db
      .selectFrom('templates')
      .select('id')
      .where('id', 'in', ids)
      .execute();
    return new Set(rows.map(({ id }) => id));
  }

  /** Removes the row of a template that the host has released. */
  async remove(id: string): Promise<void> {
    await this.#db
      .deleteFrom('templates')
      .where('id', '=', id)
      .where('state', '=', 'deleting')
      .execute();
  }
}
