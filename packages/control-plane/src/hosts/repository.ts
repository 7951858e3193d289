import type { hostAgent } from '@torpor/protocol';
import { type Kysely, sql } from 'kysely';
import { SYSTEM } from '../auth/principal.ts';
import type { Database, EventKind, HostRow } from '../database/schema.ts';
import { appendEvents, type OutboxEvent } from '../events/outbox.ts';

/** What a heartbeat reports. */
export type HostReport = Pick<
  HostRow,
  'arch' | 'vcpus' | 'memory_mb' | 'disk_mb' | 'free_disk_mb' | 'builds' | 'agent_version'
> & {
  /** Null: only the process of the host itself can reach it. */
  readonly address: string | null;
};

/** What a heartbeat has changed. */
export interface HeartbeatEffect {
  /** The host was not online before. */
  readonly isUp: boolean;
  /** It has another address. */
  readonly isMoved: boolean;
}

/** The rows of the table `hosts`. */
export class HostRepository {
  readonly #db: Kysely<Database>;

  constructor(db: Kysely<Database>) {
    this.#db = db;
  }

  find(id: string): Promise<HostRow | undefined> {
    return this.#db.selectFrom('hosts').selectAll().where('id', '=', id).executeTakeFirst();
  }

  /** Oldest first. */
  list(): Promise<HostRow[]> {
    return this.#db.selectFrom('hosts').selectAll().orderBy('created_at').orderBy('id').execute();
  }

  /** Records that a host is up, and what is known of it. Returns undefined if it does not exist. */
  async heartbeat(id: string, report: Partial<HostReport>): Promise<HeartbeatEffect | undefined> {
    if (await this.#recordUnchanged(id, report)) return { isUp: false, isMoved: false };
    return this.#recordChanged(id, report);
  }

  /**
   * The usual heartbeat: of a host that is online, at the same address. One statement that does
   * not wait for the disk, because every host sends one every few seconds; if the server crashes
   * right after it, the next one makes up for it. Returns whether it was written.
   */
  async #recordUnchanged(id: string, report: Partial<HostReport>): Promise<boolean> {
    let update = this.#db
      .with('relaxed', (db) =>
        db.selectNoFrom(sql`set_config('synchronous_commit', 'off', true)`.as('setting')),
      )
      .updateTable('hosts')
      .from('relaxed')
      .set({ ...report, last_heartbeat_at: sql<Date>`now()` })
      .where('id', '=', id)
      .where('state', '=', 'online');
    const { address } = report;
    if (address !== undefined) update = update.where('address', 'is not distinct from', address);
    return (await update.returning('id').executeTakeFirst()) !== undefined;
  }

  #recordChanged(id: string, report: Partial<HostReport>): Promise<HeartbeatEffect | undefined> {
    return this.#db.transaction().execute(async (transaction) => {
      const before = await transaction
        .selectFrom('hosts')
        .selectAll()
        .where('id', '=', id)
        .forUpdate()
        .executeTakeFirst();
      if (before === undefined) return undefined;
      await transaction
        .updateTable('hosts')
        .set({ ...report, state: 'online', last_heartbeat_at: sql<Date>`now()` })
        .where('id', '=', id)
        .execute();
      const isUp = before.state !== 'online';
      if (isUp) await appendEvents(transaction, [hostEvent('host.up', before)]);
      return { isUp, isMoved: report.address !== undefined && report.address !== before.address };
    });
  }

  /** Marks the hosts that have sent no heartbeat for `silenceMs`, and returns them. */
  markSilent(silenceMs: number): Promise<HostRow[]> {
    return this.#db.transaction().execute(async (transaction) => {
      const silent = await transaction
        .updateTable('hosts')
        .set({ state: 'unreachable' })
        .where('state', '=', 'online')
        .where('last_heartbeat_at', '<', sql<Date>`now() - ${silenceMs} * interval '1 ms'`)
        .returningAll()
        .execute();
      await appendEvents(
        transaction,
        silent.map((row) => hostEvent('host.down', row)),
      );
      return silent;
    });
  }
}

/** What an agent reports of its host, as the columns of its row. */
export function capacityColumns(
  capacity: hostAgent.HostCapacity | undefined,
): Omit<HostReport, 'address'> {
  return {
    arch: capacity?.arch ?? null,
    vcpus: capacity?.vcpus ?? null,
    memory_mb: capacity === undefined ? null : Number(capacity.memoryMb),
    disk_mb: capacity === undefined ? null : Number(capacity.diskMb),
    free_disk_mb: capacity === undefined ? null : Number(capacity.freeDiskMb),
    builds: capacity?.builds ?? null,
    agent_version: capacity?.agentVersion ?? null,
  };
}

/** An event of a host; by default one that happened by itself. */
export function hostEvent(
  kind: EventKind,
  row: HostRow,
  details: Partial<Pick<OutboxEvent, 'actor' | 'metadata'>> = {},
): OutboxEvent {
  const { actor = SYSTEM, metadata = {} } = details;
  return {
    kind,
    resource: row.id,
    teamId: row.team_id ?? row.audit_team_id,
    actor,
    status: 'success',
    metadata: { name: row.name, ...metadata },
  };
}
