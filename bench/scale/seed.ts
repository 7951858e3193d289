/** Rows as a platform has them that was in use for a month, written directly. */
import type { SiteParts, SiteSize } from './site.ts';

/** Of the rows that a selective filter lets through, in every size of a site. */
const RARE = 10;
const DAYS = 30;

type SeededParts = Pick<SiteParts, 'database' | 'teamId' | 'hostIds'>;

export interface History {
  readonly stoppedSandboxes: number;
  /** As many audit entries and events. */
  readonly events: number;
  readonly usageIntervals: number;
}

/** Running sandboxes, as many on each host. */
export async function seedSandboxes(
  site: SeededParts,
  { sandboxesPerHost }: Pick<SiteSize, 'sandboxesPerHost'>,
): Promise<void> {
  const { client } = site.database;
  await client.query(
    `insert into sandboxes (id, team_id, host_id, template, state, vcpus, memory_mb, disk_size_mb,
       timeout_sec, allow_internet, metadata, created_at, started_at, last_active_at)
     select 'sb' || substr(md5('sandbox' || n), 1, 20), $1, ($2::text[])[1 + n % $4],
       'base', 'running', 1, 128, 1024, 0, true,
       jsonb_build_object('customer', 'c' || n % ($3::integer / ${RARE} + 1), 'stage', 'production'),
       at, at, at
     from (select n, now() - n * interval '${DAYS} days' / $3::integer as at from generate_series(1, $3) n) rows`,
    [site.teamId, site.hostIds, sandboxesPerHost * site.hostIds.length, site.hostIds.length],
  );
  await client.query(
    `insert into usage_intervals (team_id, resource_type, resource, vcpus, memory_mb, disk_mb, started_at)
     select team_id, 'sandbox', id, vcpus, memory_mb, disk_size_mb, started_at from sandboxes`,
  );
  await client.query('vacuum analyze');
}

/** What no longer exists, and what was recorded. */
export async function seedHistory(site: SeededParts, history: History): Promise<void> {
  const { stoppedSandboxes, events, usageIntervals } = history;
  const { client } = site.database;
  await client.query(
    `insert into sandboxes (id, team_id, host_id, template, state, vcpus, memory_mb, disk_size_mb,
       timeout_sec, allow_internet, metadata, created_at, started_at, last_active_at, ended_at, reason)
     select 'sb' || substr(md5('stopped' || n), 1, 20), $1, $3,
       case when n % ($2 / ${RARE}) = 0 then 'rare' else 'base' end,
       case when n % ($2 / ${RARE}) = 0 then 'error' else 'stopped' end, 1, 128, 1024, 0, true,
       '{"stage": "production"}', at, at, at, at, null
     from (select n, now() - n * interval '${DAYS} days' / $2::integer as at from generate_series(1, $2::integer) n) rows`,
    [site.teamId, stoppedSandboxes, site.hostIds[0]],
  );
  await client.query(
    `insert into outbox (kind, resource, team_id, actor_type, actor_id, actor_name, status, metadata,
       created_at, delivered_at, position)
     select case when rare then 'api_key.revoke' else 'sandbox.' || (array['create', 'destroy', 'pause', 'resume'])[1 + n % 4] end,
       'sb' || substr(md5('resource' || case when rare then 0 else n / 4 end), 1, 20), $1, 'api_key',
       case when rare then 'keyrare' else 'keyusual' end, 'key',
       case when rare then 'error' else 'success' end, '{"template": "base"}', at, at, n + head
     from event_stream, (select n, n % ($2 / ${RARE}) = 0 as rare, now() - ($2 - n) * interval '${DAYS} days' / $2 as at
       from generate_series(1, $2::integer) n) rows`,
    [site.teamId, events],
  );
  await client.query('update event_stream set head = (select max(position) from outbox)');
  await client.query(
    `insert into audit_logs (id, team_id, actor_type, actor_id, actor_name, resource_type, resource_id,
       action, status, metadata, created_at, outbox_id)
     select 'log' || substr(md5('audit' || id), 1, 20), team_id, actor_type, actor_id, actor_name,
       split_part(kind, '.', 1), resource, split_part(kind, '.', 2), status, metadata, created_at, id
     from outbox on conflict (outbox_id) do nothing`,
  );
  await client.query(
    `insert into usage_intervals (team_id, resource_type, resource, vcpus, memory_mb, disk_mb, started_at, ended_at)
     select $1, 'sandbox', 'sb' || substr(md5('interval' || n), 1, 20), 1, 128, 1024, at, at + interval '1 hour'
     from (select n, now() - interval '2 hours' - n * interval '90 days' / $2::integer as at
       from generate_series(1, $2) n) rows`,
    [site.teamId, usageIntervals],
  );
  await client.query('vacuum analyze');
}
