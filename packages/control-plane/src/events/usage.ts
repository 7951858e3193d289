/**
 * What teams use, and how long: an interval for each time in which a sandbox or snapshot
 * takes the same. The intervals are made from events, in the transaction that delivers
 * these, with the times at which the changes were committed. So they do not depend on who
 * delivers, nor when, and there are no samples that could be missed or taken twice.
 */
import { type Kysely, type RawBuilder, sql, type Transaction } from 'kysely';
import type { Principal } from '../auth/principal.ts';
import type { Database } from '../database/schema.ts';
import type { DeliverableEvent } from './outbox.ts';

/** What a resource takes while it is in one state. */
interface Share {
  readonly vcpus: number;
  readonly memoryMb: number;
  readonly diskMb: number;
}

const BYTES_PER_MB = 1024 * 1024;
const DAY_SECONDS = sql.lit(24 * 60 * 60);

interface ChangedResource {
  readonly team_id: string;
  readonly resource_type: string;
  readonly resource: string;
}

/** What a resource takes from a time on. */
interface Change extends ChangedResource {
  /** Null: it is no longer there. */
  readonly share: Share | null;
  readonly at: Date;
}

interface EndedInterval extends ChangedResource {
  readonly ended_at: Date;
}

/** Consumes events: ends and begins the intervals of what they change. */
export async function recordUsage(
  transaction: Transaction<Database>,
  events: readonly DeliverableEvent[],
): Promise<void> {
  const changes = events.flatMap((event): Change[] => {
    const share = shareAfter(event);
    const { kind, team_id, resource, created_at: at } = event;
    const [resource_type = ''] = kind.split('.');
    return share === undefined ? [] : [{ team_id, resource_type, resource, share, at }];
  });
  for (const turn of inTurns(changes)) await apply(transaction, turn);
}

/** The changes in their order, in as few turns as there may be with one change of each resource. */
function inTurns(changes: readonly Change[]): Change[][] {
  const turns: Change[][] = [];
  const counts = new Map<string, number>();
  for (const change of changes) {
    const key = keyOf(change);
    const turn = counts.get(key) ?? 0;
    counts.set(key, turn + 1);
    turns[turn] ??= [];
    turns[turn].push(change);
  }
  return turns;
}

/** Null: it is no longer there. Undefined: what it takes is as before. */
function shareAfter({ kind, status, metadata }: DeliverableEvent): Share | null | undefined {
  if (kind === 'sandbox.state') return shareOfSandbox(metadata);
  if (status !== 'success') return undefined;
  if (kind === 'snapshot.delete') return null;
  if (kind !== 'snapshot.create') return undefined;
  const diskMb = Math.ceil(Number(metadata.size_bytes ?? 0) / BYTES_PER_MB);
  return { vcpus: 0, memoryMb: 0, diskMb };
}

function shareOfSandbox(metadata: Readonly<Record<string, string>>): Share | null | undefined {
  const diskMb = Number(metadata.disk_mb ?? 0);
  // It could not be created.
  if (metadata.state === 'error' && diskMb === 0) return null;
  switch (metadata.state) {
    case 'running':
      return { vcpus: Number(metadata.vcpus), memoryMb: Number(metadata.memory_mb), diskMb };
    case 'paused':
    case 'error':
      return { vcpus: 0, memoryMb: 0, diskMb };
    case 'stopped':
    // Its host does not have it.
    case 'missing':
    // It was destroyed while its host did not respond.
    case 'destroying':
      return null;
    // `unreachable`: it takes what it took until its host responds again.
    default:
      return undefined;
  }
}

/** Two statements, whatever the number of changes. */
async function apply(
  transaction: Transaction<Database>,
  changes: readonly Change[],
): Promise<void> {
  // An interval does not end before it started, even if the clock of the database was set back since.
  const { rows: ended } = await sql<EndedInterval>`
    update usage_intervals as open set ended_at = greatest(change.at, open.started_at)
    from ${rowsOf(changes)}
    where open.team_id = change.team_id and open.resource_type = change.resource_type
      and open.resource = change.resource and open.ended_at is null
      and (open.vcpus, open.memory_mb, open.disk_mb)
        is distinct from (change.vcpus, change.memory_mb, change.disk_mb)
    returning open.team_id, open.resource_type, open.resource, open.ended_at`.execute(transaction);
  const ends = new Map(ended.map((interval) => [keyOf(interval), interval.ended_at]));
  const begun = changes
    .filter(({ share }) => share !== null)
    .map((change) => ({ ...change, at: ends.get(keyOf(change)) ?? change.at }));
  // Where it takes the same as before, the interval continues.
  await sql`
    insert into usage_intervals
      (team_id, resource_type, resource, vcpus, memory_mb, disk_mb, started_at)
    select team_id, resource_type, resource, vcpus, memory_mb, disk_mb, at from ${rowsOf(begun)}
    on conflict (team_id, resource_type, resource) where ended_at is null do nothing`.execute(
    transaction,
  );
}

/** The changes as a table, `change`. */
function rowsOf(changes: readonly Change[]): RawBuilder<unknown> {
  const rows = changes.map(({ share, ...change }) => ({
    ...change,
    vcpus: share?.vcpus,
    memory_mb: share?.memoryMb,
    disk_mb: share?.diskMb,
  }));
  return sql`jsonb_to_recordset(${JSON.stringify(rows)}::jsonb) as change (team_id text,
    resource_type text, resource text, vcpus integer, memory_mb integer, disk_mb integer, at timestamptz)`;
}

function keyOf({ team_id, resource_type, resource }: ChangedResource): string {
  return JSON.stringify([team_id, resource_type, resource]);
}

export interface UsageOfDay {
  /** In UTC: `2026-11-28`. */
  readonly date: string;
  readonly vcpuSeconds: number;
  readonly memoryMbSeconds: number;
  readonly diskMbSeconds: number;
}

/** Sums up the intervals. */
export class Usage {
  readonly #db: Kysely<Database>;

  constructor(db: Kysely<Database>) {
    this.#db = db;
  }

  /** For each day of `[from, to)`, in UTC, what the team used; what is in use counts until now. */
  async perDay({ teamId }: Principal, from: Date, to: Date): Promise<UsageOfDay[]> {
    // An interval counts from its begin to the end of all days, less the same from its end: so
    // each is read once, and not once for each of its days.
    const { rows } = await sql<{ day: string; vcpus: string; memory: string; disk: string }>`
      with used as (
        select vcpus, memory_mb, disk_mb, greatest(started_at, ${from}) as begins,
          least(coalesce(ended_at, now()), now(), ${to}) as ends
        from usage_intervals
        where team_id = ${teamId} and coalesce(ended_at, 'infinity') > ${from}
          and started_at < least(now(), ${to})
      ), edges as (
        select begins as at, vcpus, memory_mb, disk_mb from used where begins < ends
        union all
        select ends, -vcpus, -memory_mb, -disk_mb from used where begins < ends
      ), placed as (
        select day, vcpus, memory_mb, disk_mb, ${DAY_SECONDS} - extract(epoch from at - day) as seconds
        from edges, date_trunc('day', at, 'UTC') as day
      ), changes as (
        select day, sum(vcpus) as vcpus, sum(memory_mb) as memory, sum(disk_mb) as disk,
          sum(vcpus * seconds) as vcpu_seconds, sum(memory_mb * seconds) as memory_seconds,
          sum(disk_mb * seconds) as disk_seconds
        from placed group by day
      ), days as (
        select day from generate_series(date_trunc('day', ${from}::timestamptz, 'UTC'),
          ${to}::timestamptz - interval '1 microsecond', interval '24 hours') as day
      )
      select to_char(day at time zone 'UTC', 'YYYY-MM-DD') as day,
        coalesce(vcpu_seconds, 0) + ${DAY_SECONDS} * coalesce(sum(vcpus) over earlier, 0) as vcpus,
        coalesce(memory_seconds, 0) + ${DAY_SECONDS} * coalesce(sum(memory) over earlier, 0) as memory,
        coalesce(disk_seconds, 0) + ${DAY_SECONDS} * coalesce(sum(disk) over earlier, 0) as disk
      from days left join changes using (day)
      window earlier as (order by day rows between unbounded preceding and 1 preceding)
      order by day`.execute(this.#db);
    return rows.map(({ day, vcpus, memory, disk }) => ({
      date: day,
      vcpuSeconds: Number(vcpus),
      memoryMbSeconds: Number(memory),
      diskMbSeconds: Number(disk),
    }));
  }
}
