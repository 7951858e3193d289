/**
 * What teams may have, and have. A change that takes more checks the quota in the transaction
 * that writes its row, and holds the team's lock until the end of it: two control planes
 * cannot both use the last place. Rows are what is counted, so nothing has to be given back.
 */
import {
  QUOTA_NAMES,
  QUOTAS,
  type QuotaLimits,
  type QuotaName,
  SANDBOX_DEFAULTS,
  STATES_WITH_MEMORY,
  TorporError,
} from '@torpor/protocol';
import { type Kysely, sql, type Transaction } from 'kysely';
import type { Principal } from '../auth/principal.ts';
import type { Database } from '../database/schema.ts';
import { appendEvents } from '../events/outbox.ts';

/** What a change takes. */
export type Demand = Readonly<Partial<Record<QuotaName, number>>>;

export interface Quota {
  readonly name: QuotaName;
  readonly used: number;
  /** Null: no limit. */
  readonly limit: number | null;
  readonly isDefault: boolean;
}

/** What is undefined stays as it is; `default`: that of the platform. */
export type QuotaChanges = Readonly<
  Partial<Record<QuotaName, number | null | 'default' | undefined>>
>;

interface Parts {
  readonly db: Kysely<Database>;
  /** The limits of a team that has none of its own. */
  readonly defaults: QuotaLimits;
  /** Called after a transaction with events. */
  readonly onEvents: () => void;
}

export class Quotas {
  readonly #parts: Parts;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  /** Throws `quota_exceeded` if the team may not have this more. No other transaction can take it until the end of this one. */
  async require(transaction: Transaction<Database>, teamId: string, demand: Demand): Promise<void> {
    const room = await this.lock(transaction, teamId, demand);
    if (room.times(1) < 1) throw room.refusal();
  }

  /** How often the team may have the demand, until the end of the transaction. */
  async lock(
    transaction: Transaction<Database>,
    teamId: string,
    demand: Demand,
  ): Promise<QuotaRoom> {
    const limits = await this.#limits(transaction, teamId);
    const limited = QUOTA_NAMES.filter(
      (name) => limits[name].limit !== null && (demand[name] ?? 0) > 0,
    );
    if (limited.length === 0) return new QuotaRoom([]);
    await sql`select pg_advisory_xact_lock(hashtextextended(${`quota:${teamId}`}, 0))`.execute(
      transaction,
    );
    const used = await usedBy(transaction, teamId);
    return new QuotaRoom(
      limited.map((name) => ({
        name,
        wanted: demand[name] ?? 0,
        used: used[name],
        limit: limits[name].limit ?? 0,
      })),
    );
  }

  /** Throws `not_found` if there is no such team. */
  async read(teamId: string): Promise<Quota[]> {
    const { db } = this.#parts;
    await requireTeam(db, teamId);
    const limits = await this.#limits(db, teamId);
    const used = await usedBy(db, teamId);
    return QUOTA_NAMES.map((name) => ({ name, used: used[name], ...limits[name] }));
  }

  /** What a team has already stays, also if it is more than a new limit. Throws `not_found`. */
  async set({ actor }: Principal, teamId: string, changes: QuotaChanges): Promise<void> {
    const { db, onEvents } = this.#parts;
    await db.transaction().execute(async (transaction) => {
      await requireTeam(transaction, teamId);
      for (const name of QUOTA_NAMES) await setLimit(transaction, teamId, name, changes[name]);
      const metadata = Object.fromEntries(
        Object.entries(changes).map(([name, limit]) => [name, String(limit ?? 'unlimited')]),
      );
      await appendEvents(transaction, [
        { kind: 'team.set_quotas', resource: teamId, teamId, actor, status: 'success', metadata },
      ]);
    });
    onEvents();
  }

  async #limits(db: Kysely<Database>, teamId: string) {
    const { defaults } = this.#parts;
    const rows = await db
      .selectFrom('team_quotas')
      .select(['name', 'maximum'])
      .where('team_id', '=', teamId)
      .execute();
    const own = new Map(rows.map(({ name, maximum }) => [name, maximum]));
    const limitOf = (name: QuotaName) => {
      const maximum = own.get(name);
      if (maximum === undefined) return { limit: defaults[name], isDefault: true };
      return { limit: maximum === null ? null : Number(maximum), isDefault: false };
    };
    return Object.fromEntries(QUOTA_NAMES.map((name) => [name, limitOf(name)])) as Record<
      QuotaName,
      Pick<Quota, 'limit' | 'isDefault'>
    >;
  }
}

interface LimitedDemand {
  readonly name: QuotaName;
  readonly wanted: number;
  readonly used: number;
  readonly limit: number;
}

/** What a transaction that holds a team's lock may still take. */
class QuotaRoom {
  readonly #demands: readonly LimitedDemand[];

  constructor(demands: readonly LimitedDemand[]) {
    this.#demands = demands;
  }

  /** How often the demand fits, up to `most`. */
  times(most: number): number {
    const fits = this.#demands.map(({ wanted, used, limit }) =>
      Math.max(Math.floor((limit - used) / wanted), 0),
    );
    return Math.min(most, ...fits);
  }

  /** The error for the demand after it was taken `taken` times. */
  refusal(taken = 0): TorporError {
    const short = this.#demands.find(
      ({ wanted, used, limit }) => used + (taken + 1) * wanted > limit,
    );
    if (short === undefined) return new TorporError('internal_error', 'No quota is exceeded.');
    const { name, wanted, used, limit } = short;
    return new TorporError(
      'quota_exceeded',
      `The quota ${name} of the team is ${limit} (${QUOTAS[name]}): ${used + taken * wanted} are used, ${wanted} more were requested.`,
    );
  }
}

/** Gives a team no limits, whatever the defaults of the platform are. */
export async function liftQuotas(
  transaction: Transaction<Database>,
  teamId: string,
): Promise<void> {
  for (const name of QUOTA_NAMES) await setLimit(transaction, teamId, name, null);
}

async function setLimit(
  transaction: Transaction<Database>,
  teamId: string,
  name: QuotaName,
  limit: QuotaChanges[QuotaName],
): Promise<void> {
  if (limit === undefined) return;
  if (limit === 'default') {
    await transaction
      .deleteFrom('team_quotas')
      .where('team_id', '=', teamId)
      .where('name', '=', name)
      .execute();
    return;
  }
  await transaction
    .insertInto('team_quotas')
    .values({ team_id: teamId, name, maximum: limit })
    .onConflict((conflict) => conflict.columns(['team_id', 'name']).doUpdateSet({ maximum: limit }))
    .execute();
}

async function usedBy(
  db: Kysely<Database>,
  teamId: string,
): Promise<Readonly<Record<QuotaName, number>>> {
  // One whose host does not respond takes what it took before, and nothing once it was destroyed.
  const running = sql`coalesce(lost_from, state) in (${sql.join(STATES_WITH_MEMORY)})`;
  // A snapshot that is being created may occupy what its source has. What could not be created has no disk.
  const { rows } = await sql<Record<QuotaName, string>>`
    select running_sandboxes, vcpus, memory_mb, sandbox_disk_mb + snapshot_disk_mb as disk_mb,
      snapshots,
      (select count(*) from api_keys where team_id = ${teamId}) as api_keys,
      (select count(*) from webhooks where team_id = ${teamId}) as webhooks
    from (
      select count(*) filter (where ${running}) as running_sandboxes,
        coalesce(sum(vcpus) filter (where ${running}), 0) as vcpus,
        coalesce(sum(memory_mb) filter (where ${running}), 0) as memory_mb,
        coalesce(sum(coalesce(disk_size_mb, ${SANDBOX_DEFAULTS.diskMb}))
          filter (where state <> 'error' or started_at is not null), 0) as sandbox_disk_mb
      from sandboxes where team_id = ${teamId} and state <> 'stopped' and state <> 'missing'
        and ended_at is null
    ) as of_sandboxes, (
      select count(*) as snapshots,
        coalesce(sum(case state when 'ready' then ceil(size_bytes / 1048576.0)
          else memory_mb + coalesce(disk_size_mb, ${SANDBOX_DEFAULTS.diskMb}) end), 0) as snapshot_disk_mb
      from templates where team_id = ${teamId} and state in ('pending', 'ready')
    ) as of_snapshots`.execute(db);
  const [row] = rows;
  return Object.fromEntries(QUOTA_NAMES.map((name) => [name, Number(row?.[name] ?? 0)])) as Record<
    QuotaName,
    number
  >;
}

async function requireTeam(db: Kysely<Database>, teamId: string): Promise<void> {
  const team = await db
    .selectFrom('teams')
    .select('id')
    .where('id', '=', teamId)
    .executeTakeFirst();
  if (team !== undefined) return;
  throw new TorporError('not_found', `There is no team ${JSON.stringify(teamId.slice(0, 64))}.`);
}
