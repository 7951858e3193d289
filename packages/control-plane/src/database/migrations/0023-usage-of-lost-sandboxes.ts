import { type Kysely, sql } from 'kysely';
import type { Migration } from 'kysely/migration';

/** What the sandboxes of a host that does not respond take of it is what they took before: paused ones have no memory. */
export const usageOfLostSandboxes: Migration = {
  async up(db: Kysely<unknown>): Promise<void> {
    const [taken, takes] = [holdsMemory('old'), holdsMemory('new')];
    await sql`
      create or replace function count_host_usage() returns trigger language plpgsql as $$
      begin
        if tg_op <> 'INSERT' and ${taken} then
          update host_usage set memory_mb = memory_mb - old.memory_mb, vcpus = vcpus - old.vcpus
            where host_id = old.host_id;
        end if;
        if tg_op <> 'DELETE' and ${takes} then
          update host_usage set memory_mb = memory_mb + new.memory_mb, vcpus = vcpus + new.vcpus
            where host_id = new.host_id;
        end if;
        return null;
      end $$`.execute(db);
    await sql`
      create or replace function begin_host_usage() returns trigger language plpgsql as $$
      begin
        insert into host_usage
          select new.id, coalesce(sum(memory_mb), 0), coalesce(sum(vcpus), 0)
          from sandboxes where host_id = new.id and ${holdsMemory('sandboxes')};
        return null;
      end $$`.execute(db);
    // An insert has no earlier state.
    await sql`drop trigger sandboxes_usage_update on sandboxes`.execute(db);
    await sql`drop trigger sandboxes_usage_delete on sandboxes`.execute(db);
    await sql`
      create trigger sandboxes_usage_delete after delete on sandboxes for each row
      when (${taken}) execute function count_host_usage()`.execute(db);
    await sql`
      create trigger sandboxes_usage_update after update on sandboxes for each row
      when ((${taken}, old.host_id, old.memory_mb, old.vcpus)
        is distinct from (${takes}, new.host_id, new.memory_mb, new.vcpus))
      execute function count_host_usage()`.execute(db);
    await sql`
      update host_usage set memory_mb = coalesce(sums.memory_mb, 0), vcpus = coalesce(sums.vcpus, 0)
      from hosts left join (
        select host_id, sum(memory_mb) as memory_mb, sum(vcpus) as vcpus
        from sandboxes where ${holdsMemory('sandboxes')} group by host_id
      ) as sums on sums.host_id = hosts.id
      where host_usage.host_id = hosts.id`.execute(db);
  },
};

function holdsMemory(row: 'old' | 'new' | 'sandboxes') {
  return sql.raw(`holds_memory(coalesce(${row}.lost_from, ${row}.state))`);
}
