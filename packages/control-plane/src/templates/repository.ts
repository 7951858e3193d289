import { type Kysely, sql } from 'kysely';
import type { Database, NewTemplateRow, TemplateRow } from '../database/schema.ts';

export interface PublishedTemplate {
  readonly row: TemplateRow;
  /** What had the name before; its state is `deleting` now. */
  readonly replaced: TemplateRow | undefined;
}

/**
 * The rows of the table `templates`. An operation that holds the lock of a name inserts,
 * publishes and marks its rows; one that is `deleting` may be released by any
 * control plane, and its row is removed then.
 */
export class TemplateRepository {
  readonly #db: Kysely<Database>;

  constructor(db: Kysely<Database>) {
    this.#db = db;
  }

  /** One that can be used. */
  find(teamId: string, name: string): Promise<TemplateRow | undefined> {
    return this.#db
      .selectFrom('templates')
      .selectAll()
      .where('team_id', '=', teamId)
      .where('name', '=', name)
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

  /** Those that can be used, newest first. */
  list(teamId: string): Promise<TemplateRow[]> {
    return this.#db
      .selectFrom('templates')
      .selectAll()
      .where('team_id', '=', teamId)
      .where('state', '=', 'ready')
      .orderBy('created_at', 'desc')
      .orderBy('id', 'desc')
      .execute();
  }

  insert(row: NewTemplateRow): Promise<TemplateRow> {
    return this.#db.insertInto('templates').values(row).returningAll().executeTakeFirstOrThrow();
  }

  /** Gives a pending template its name, and takes it from the one that had it; within a transaction. */
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

  /** From here on nobody can name it. */
  async markDeleting(id: string): Promise<void> {
    await this.#db
      .updateTable('templates')
      .set({ state: 'deleting' })
      .where('id', '=', id)
      .execute();
  }

  /** Those of a name that are being made. */
  listPending(teamId: string, name: string): Promise<TemplateRow[]> {
    return this.#db
      .selectFrom('templates')
      .selectAll()
      .where('team_id', '=', teamId)
      .where('name', '=', name)
      .where('state', '=', 'pending')
      .execute();
  }

  /** Those of a host that are being made or removed. */
  unsettled(hostId: string): Promise<TemplateRow[]> {
    return this.#db
      .selectFrom('templates')
      .selectAll()
      .where('host_id', '=', hostId)
      .where('state', '<>', 'ready')
      .execute();
  }

  /** Forgets one that the host has released. */
  async remove(id: string): Promise<void> {
    await this.#db
      .deleteFrom('templates')
      .where('id', '=', id)
      .where('state', '=', 'deleting')
      .execute();
  }
}
