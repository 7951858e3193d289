import { type Kysely, sql } from 'kysely';
import type { Migration } from 'kysely/migration';

export const placement: Migration = {
  async up(db: Kysely<unknown>): Promise<void> {
    await db.schema
      .alterTable('hosts')
      .addColumn('max_vcpus', 'integer')
      .addColumn('max_memory_mb', 'integer')
      .addColumn('images_digest', 'text')
      .execute();
    await db.schema
      .createTable('host_images')
      .addColumn('host_id', 'text', (column) =>
        column.notNull().references('hosts.id').onDelete('cascade'),
      )
      .addColumn('name', 'text', (column) => column.notNull())
      .addColumn('size_bytes', 'bigint', (column) => column.notNull())
      .addColumn('created_at', 'timestamptz', (column) => column.notNull())
      .addPrimaryKeyConstraint('host_images_pkey', ['host_id', 'name'])
      .execute();
    await createTemplateHosts(db);
    await createHostUsage(db);
    await db.schema
      .createTable('given_up')
      .addColumn('id', 'text', (column) => column.primaryKey())
      .addColumn('created_at', 'timestamptz', (column) => column.notNull().defaultTo(sql`now()`))
      .execute();
  },
};

/** A host that a control plane of the version before knows may have no row yet. */
async function createTemplateHosts(db: Kysely<unknown>): Promise<void> {
  await db.schema
    .createTable('template_hosts')
    .addColumn('template_id', 'text', (column) =>
      column.notNull().references('templates.id').onDelete('cascade'),
    )
    .addColumn('host_id', 'text', (column) => column.notNull())
    .addPrimaryKeyConstraint('template_hosts_pkey', ['template_id', 'host_id'])
    .execute();
  await db.schema
    .createIndex('template_hosts_host')
    .on('template_hosts')
    .column('host_id')
    .execute();
  await sql`insert into template_hosts select id, host_id from templates`.execute(db);
  // With the index of what is unsettled on a host.
  await db.schema.alterTable('templates').dropColumn('host_id').execute();
  await sql`create index templates_unsettled on templates (id) where state <> 'ready'`.execute(db);
}

/**
 * What the sandboxes of each host take, kept by triggers: exact in every transaction, whoever
 * writes the rows, and read without reading them. `holds_memory` says what
 * `STATES_WITH_MEMORY` of the protocol does; a test compares the two.
 */
async function createHostUsage(db: Kysely<unknown>): Promise<void> {
  await sql`
    create function holds_memory(state text) returns boolean language sql immutable
    as $$ select state not in ('paused', 'error', 'stopped') $$`.execute(db);
  await db.schema
    .createTable('host_usage')
    .addColumn('host_id', 'text', (column) =>
      column.primaryKey().references('hosts.id').onDelete('cascade'),
    )
    .addColumn('memory_mb', 'bigint', (column) => column.notNull())
    .addColumn('vcpus', 'bigint', (column) => column.notNull())
    .execute();
  await sql`
    create function begin_host_usage() returns trigger language plpgsql as $$
    begin
      insert into host_usage
        select new.id, coalesce(sum(memory_mb), 0), coalesce(sum(vcpus), 0)
        from sandboxes where host_id = new.id and holds_memory(state);
      return null;
    end $$`.execute(db);
  await sql`
    create function count_host_usage() returns trigger language plpgsql as $$
    begin
      if tg_op <> 'INSERT' and holds_memory(old.state) then
        update host_usage set memory_mb = memory_mb - old.memory_mb, vcpus = vcpus - old.vcpus
          where host_id = old.host_id;
      end if;
      if tg_op <> 'DELETE' and holds_memory(new.state) then
        update host_usage set memory_mb = memory_mb + new.memory_mb, vcpus = vcpus + new.vcpus
          where host_id = new.host_id;
      end if;
      return null;
    end $$`.execute(db);
  await sql`
    insert into host_usage
      select hosts.id, coalesce(sum(sandboxes.memory_mb), 0), coalesce(sum(sandboxes.vcpus), 0)
      from hosts left join sandboxes on host_id = hosts.id and holds_memory(sandboxes.state)
      group by hosts.id`.execute(db);
  await sql`
    create trigger hosts_usage after insert on hosts
    for each row execute function begin_host_usage()`.execute(db);
  const count = sql`for each row`;
  await sql`
    create trigger sandboxes_usage_insert after insert on sandboxes ${count}
    when (holds_memory(new.state)) execute function count_host_usage()`.execute(db);
  await sql`
    create trigger sandboxes_usage_delete after delete on sandboxes ${count}
    when (holds_memory(old.state)) execute function count_host_usage()`.execute(db);
  await sql`
    create trigger sandboxes_usage_update after update on sandboxes ${count}
    when ((holds_memory(old.state), old.host_id, old.memory_mb, old.vcpus)
      is distinct from (holds_memory(new.state), new.host_id, new.memory_mb, new.vcpus))
    execute function count_host_usage()`.execute(db);
}
