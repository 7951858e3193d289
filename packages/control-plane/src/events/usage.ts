/**
 * What teams use, and how long: an interval for each time in which a sandbox or snapshot
 * takes the same. The intervals are made from events, in the transaction that delivers
 * these, with the times at which the changes were committed. So they do not depend on who
 * delivers, nor when, and there are no samples that could be missed or taken twice.
 */
import { type Kysely, sql, type Transaction } from 'kysely';
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

/** Consumes events: ends and begins the intervals of what they change. */
export async function recordUsage(
  transaction: Transaction<Database>,
  events: readonly DeliverableEvent[],
): Promise<void> {
  for (const event of events) {
    const share = shareAfter(event);
    if (share !== undefined) await change(transaction, event, share);
  }
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
      return null;
    default:
      return undefined;
  }
}

async function change(
  transaction: Transaction<Database>,
  { kind, resource, team_id, created_at }: DeliverableEvent,
  share: Share | null,
): Promise<void> {
  const [resourceType = ''] = kind.split('.');
  const { vcpus, memoryMb, diskMb } = share ?? { vcpus: -1, memoryMb: -1, diskMb: -1 };
  const ended = await transaction
    .updateTable('usage_intervals')
    // Not before it started, even if the clock of the database was set back since.
    .set({ ended_at: sql<Date>`greatest(${created_at}::timestamptz, started_at)` })
    .where('team_id', '=', team_id)
    .where('resource_type', '=', resourceType)
    .where('resource', '=', resource)
    .where('ended_at', 'is', null)
    .where(sql<boolean>`(vcpus, memory_mb, disk_mb) <> (${vcpus}, ${memoryMb}, ${diskMb})`)
    .returning('ended_at')
    .executeTakeFirst();
  if (share === null) return;
  await transaction
    .insertInto('usage_intervals')
    .values({
      team_id,
      resource_type: resourceType,
      resource,
      vcpus,
      memory_mb: memoryMb,
      disk_mb: diskMb,
      started_at: ended?.ended_at ?? created_at,
      ended_at: null,
    })
    // It takes the same as before: the interval continues.
    .onConflict((conflict) =>
      conflict
        .columns(['team_id', 'resource_type', 'resource'])
        .where('ended_at', 'is', null)
        .doNothing(),
    )
    .execute();
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
    const { rows } = await sql<{ day: string; vcpus: string; memory: string; disk: string }>`
      with days as (
        select day, greatest(day, ${from}) as begins, least(day + interval '1 day', ${to}, now()) as ends
        from generate_series(
          date_trunc('day', ${from}::timestamptz, 'UTC'), ${to}::timestamptz - interval '1 microsecond',
          interval '1 day') as day
      ), parts as (
        select day, vcpus, memory_mb, disk_mb, extract(epoch from
          least(coalesce(ended_at, now()), ends) - greatest(started_at, begins)) as seconds
        from days join usage_intervals
          on team_id = ${teamId} and begins < ends and started_at < ends
          and coalesce(ended_at, 'infinity') > begins
      )
      select to_char(day at time zone 'UTC', 'YYYY-MM-DD') as day,
        coalesce(sum(vcpus * seconds), 0) as vcpus,
        coalesce(sum(memory_mb * seconds), 0) as memory,
        coalesce(sum(disk_mb * seconds), 0) as disk
      from days left join parts using (day) group by day order by day`.execute(this.#db);
    return rows.map(({ day, vcpus, memory, disk }) => ({
      date: day,
      vcpuSeconds: Number(vcpus),
      memoryMbSeconds: Number(memory),
      diskMbSeconds: Number(disk),
    }));
  }
}
