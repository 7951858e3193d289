/**
 * Which host gets a sandbox, and the reservation of what it takes there.
 *
 * What the sandboxes of a host take is a row of `host_usage`, which triggers keep with the rows
 * of sandboxes: a sandbox counts from the transaction that makes it `creating` or `resuming`
 * until it is paused, has failed or is destroyed; one that is `unreachable` counts as before. To reserve is to lock the row of a host that has
 * room, and to write the sandbox in the same transaction. So no two transactions, of any control
 * planes, take the same room, and what is needed is one query, however many hosts and
 * sandboxes there are.
 *
 * A host can have a sandbox if it is online and not draining, belongs to the team or to none, has
 * every tag that the sandbox asks for, has the image or the build of the snapshot, allows a sandbox of
 * that size, and has room:
 *
 * - memory is never overcommitted: what a host reports for sandboxes bounds the sum of theirs;
 * - vCPUs share the processors of a host: any number without `vcpuOvercommit`, which limits
 *   them to so many per processor;
 * - disks grow as they are written, so their sizes are not summed: the host must have as much
 *   free disk as the sandbox has memory, which a pause writes, and some more.
 *
 * Of those, hosts of the team are taken before hosts of the platform, and then the one with the
 * highest score: the smallest of its free part of the memory, its free part of the disk, and
 * its processors by its processors and vCPUs together. Scores count in tenths, and a draw
 * chooses between equal ones, so that creates at the same time do not all go to one host.
 */
import { TorporError } from '@torpor/protocol';
import { type Kysely, type RawBuilder, sql, type Transaction } from 'kysely';
import type { Database } from '../database/schema.ts';
import type { HostConnection } from './connection.ts';
import { hasOrigin, hasRoom, MIN_MEMORY_MB, type PlacementRequest } from './placement-request.ts';
import { refusal } from './refusal.ts';
import type { HostRegistry } from './registry.ts';

/** What a host has room for, while its row is locked. */
export interface Room {
  readonly hostMemoryMb: number;
  /** Of the memory for sandboxes, what is not reserved. */
  readonly freeMb: number;
  /** How many more vCPUs it takes. */
  readonly freeVcpus: number;
  readonly isDraining: boolean;
}

const ATTEMPTS = 5;

export interface PlacementParts {
  readonly hosts: HostRegistry;
  /** How many vCPUs of sandboxes there may be per processor of a host; undefined: any number. */
  readonly vcpuOvercommit?: number | undefined;
}

export class Placement {
  readonly #parts: PlacementParts;

  constructor(parts: PlacementParts) {
    this.#parts = parts;
  }

  /**
   * Reserves room for a sandbox, which the transaction must write, on the best host. Throws
   * `invalid_request` and `capacity_exceeded` for a size that no host allows, `not_found` for
   * an unknown image, `no_hosts_available`, `host_unavailable`.
   */
  async reserve(
    transaction: Transaction<Database>,
    request: PlacementRequest,
  ): Promise<HostConnection> {
    const { hosts, vcpuOvercommit } = this.#parts;
    const isPossible = request.vcpus >= 1 && request.memoryMb >= MIN_MEMORY_MB;
    await sql`savepoint placement`.execute(transaction);
    for (let attempt = 1; ; attempt++) {
      const reachable = hosts.responding();
      for (const lock of isPossible ? [this.#lockBest, this.#lockAny] : []) {
        const id = await lock.call(this, transaction, request, reachable);
        if (id !== undefined) return hosts.connection(id);
        // It has locked those that turned out to be full: who waits for others must not keep them.
        await sql`rollback to savepoint placement`.execute(transaction);
      }
      const { error, mayFit } = await refusal(transaction, request, {
        reachable: new Set(reachable),
        vcpuOvercommit,
      });
      // It has come to have room, or come online, between the queries.
      if (!mayFit || attempt === ATTEMPTS) throw error;
    }
  }

  /**
   * Moves the reservation of a sandbox from its host, which did not make it, to the best of those that
   * are not `excluded`. Undefined if there is none that no other transaction has locked.
   */
  async reserveInstead(
    transaction: Transaction<Database>,
    hostId: string,
    request: PlacementRequest,
    excluded: ReadonlySet<string>,
  ): Promise<HostConnection | undefined> {
    const { hosts } = this.#parts;
    await sql`select from host_usage where host_id = ${hostId} for update`.execute(transaction);
    const reachable = hosts.responding().filter((id) => !excluded.has(id));
    // It waits for no host while it has one locked.
    const id = await this.#lockBest(transaction, request, reachable);
    return id === undefined ? undefined : hosts.connection(id);
  }

  /** Whether there is a host with room that is not `excluded`; nothing is reserved. */
  async hasRoom(
    db: Kysely<Database>,
    request: PlacementRequest,
    excluded: ReadonlySet<string>,
  ): Promise<boolean> {
    const reachable = this.#parts.hosts.responding().filter((id) => !excluded.has(id));
    const { rows } = await sql`select ${this.#eligible(request, reachable)} limit 1`.execute(db);
    return rows.length > 0;
  }

  /** The best host with room, of those that no other transaction has locked. */
  async #lockBest(
    transaction: Transaction<Database>,
    request: PlacementRequest,
    reachable: readonly string[],
  ): Promise<string | undefined> {
    const { rows } = await sql<{ id: string }>`
      select hosts.id ${this.#eligible(request, reachable)}
      order by hosts.team_id is null, floor(10 * ${SCORE}) desc, random()
      limit 1
      for update of usage skip locked
      for key share of hosts skip locked`.execute(transaction);
    return rows[0]?.id;
  }

  /**
   * A host with room, after all who place something there. In the order of their ids, so that
   * those who wait for several hosts do not wait for each other.
   */
  async #lockAny(
    transaction: Transaction<Database>,
    request: PlacementRequest,
    reachable: readonly string[],
  ): Promise<string | undefined> {
    const { rows } = await sql<{ id: string }>`
      select hosts.id ${this.#eligible(request, reachable)}
      order by hosts.id
      limit 1
      for update of usage
      for key share of hosts`.execute(transaction);
    return rows[0]?.id;
  }

  #eligible(request: PlacementRequest, reachable: readonly string[]): RawBuilder<unknown> {
    const { teamId, vcpus, memoryMb, hostTags, origin } = request;
    return sql`
      from hosts join host_usage as usage on usage.host_id = hosts.id
      where hosts.id = any (${[...reachable]}::text[])
        and hosts.state = 'online' and not hosts.draining
        and (hosts.team_id is null or hosts.team_id = ${teamId})
        and hosts.tags @> ${[...hostTags]}::text[]
        and ${hasOrigin(origin)}
        and coalesce(hosts.max_vcpus >= ${vcpus}::bigint, true)
        and coalesce(hosts.max_memory_mb >= ${memoryMb}::bigint, true)
        and ${hasRoom(request, this.#parts.vcpuOvercommit)}`;
  }

  /**
   * Locks a host for the transaction, for a sandbox that cannot be anywhere else. Lock
   * the rows of sandboxes that are written before: others wait with those for the host. Throws
   * `host_unavailable` for a host that was deleted.
   */
  async lockRoom(transaction: Transaction<Database>, hostId: string): Promise<Room> {
    const { vcpuOvercommit } = this.#parts;
    const row = await transaction
      .selectFrom('hosts')
      .innerJoin('host_usage as usage', 'usage.host_id', 'hosts.id')
      .select(['hosts.memory_mb', 'hosts.vcpus', 'hosts.draining'])
      .select(['usage.memory_mb as reserved_mb', 'usage.vcpus as reserved_vcpus'])
      .where('hosts.id', '=', hostId)
      .forUpdate('usage')
      .forKeyShare('hosts')
      .executeTakeFirst();
    if (row === undefined) {
      throw new TorporError('host_unavailable', `The host ${hostId} was deleted.`, {
        remedy: 'Try again.',
      });
    }
    const hostMemoryMb = row.memory_mb ?? 0;
    return {
      hostMemoryMb,
      freeMb: hostMemoryMb - Number(row.reserved_mb),
      freeVcpus:
        vcpuOvercommit === undefined
          ? Number.POSITIVE_INFINITY
          : (row.vcpus ?? 1) * vcpuOvercommit - Number(row.reserved_vcpus),
      isDraining: row.draining,
    };
  }

  /** Reserves room for a sandbox on its host. Throws `no_hosts_available`, `host_unavailable`. */
  async reserveOn(
    transaction: Transaction<Database>,
    hostId: string,
    { memoryMb, vcpus }: { readonly memoryMb: number; readonly vcpus: number },
  ): Promise<void> {
    const room = await this.lockRoom(transaction, hostId);
    if (room.freeMb < memoryMb || room.freeVcpus < vcpus) throw noRoom({ memoryMb, vcpus }, room);
  }
}

const FREE_DISK = sql`coalesce(hosts.free_disk_mb::float / nullif(hosts.disk_mb, 0), 1)`;
const SCORE = sql`least(
  1 - usage.memory_mb::float / greatest(hosts.memory_mb, 1),
  coalesce(hosts.vcpus::float / nullif(hosts.vcpus + usage.vcpus, 0), 0),
  ${FREE_DISK})`;

/** Until the end of the transaction no other one can place anything on the host. In the order in which placement locks its rows. */
export async function lockHost(transaction: Transaction<Database>, hostId: string): Promise<void> {
  await sql`select from host_usage where host_id = ${hostId} for update`.execute(transaction);
  await sql`select from hosts where id = ${hostId} for update`.execute(transaction);
}

/** The error if a sandbox cannot be placed on the one host that it can be on. */
export function noRoom(
  { memoryMb, vcpus }: { readonly memoryMb: number; readonly vcpus: number },
  { freeMb, hostMemoryMb, freeVcpus }: Room,
): TorporError {
  const problem =
    freeMb < memoryMb
      ? `No host has ${memoryMb} MiB of memory free for the sandbox: ${Math.max(freeMb, 0)} of ${hostMemoryMb} MiB are not reserved for other sandboxes.`
      : `No host has ${vcpus} vCPUs free for the sandbox: ${Math.max(freeVcpus, 0)} more may be used.`;
  return new TorporError('no_hosts_available', problem);
}
