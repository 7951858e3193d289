/**
 * Which host gets a sandbox, and the reservation of its memory there. Reservations are rows:
 * a sandbox counts from the transaction that makes it `creating` or `resuming` until it is
 * paused, has failed or is destroyed.
 */
import { STATES_WITH_MEMORY, TorporError } from '@torpor/protocol';
import { type Kysely, sql, type Transaction } from 'kysely';
import type { Database } from '../database/schema.ts';
import type { HostConnection, HostDescription, HostImage } from './connection.ts';
import type { HostRegistry } from './registry.ts';

export interface Place {
  readonly host: HostConnection;
  readonly description: HostDescription;
}

/** What a new sandbox needs of its host. */
export interface PlacementRequest {
  readonly teamId: string;
  readonly memoryMb: number;
  /** The image that it boots. */
  readonly image: string;
}

export class Placement {
  readonly #hosts: HostRegistry;
  readonly #db: Kysely<Database>;

  constructor(hosts: HostRegistry, db: Kysely<Database>) {
    this.#hosts = hosts;
    this.#db = db;
  }

  /**
   * The host for a new sandbox that boots an image: the first with the image and enough free
   * memory, of those that are online and not draining, and belong to the team or to none. If
   * there is none like that, the first that responds, so that the caller can say what it
   * lacks. Throws `no_hosts_available`, `host_unavailable`.
   */
  async choose({ teamId, memoryMb, image }: PlacementRequest): Promise<Place> {
    const places = await this.#places(teamId);
    for (const place of places) {
      const { host, description } = place;
      const freeMb = description.memoryMb - (await reservedMemory(this.#db, host.id));
      if (freeMb >= memoryMb && description.templates.includes(image)) return place;
    }
    const withImage = places.find(({ description }) => description.templates.includes(image));
    return withImage ?? (places[0] as Place);
  }

  /** The host that has a build. Throws `host_unavailable`, and `no_hosts_available` if it is draining. */
  async hostOf(snapshot: { readonly name: string; readonly host_id: string }): Promise<Place> {
    const { name, host_id: hostId } = snapshot;
    const row = await this.#db
      .selectFrom('hosts')
      .select('draining')
      .where('id', '=', hostId)
      .executeTakeFirst();
    if (row?.draining) {
      throw new TorporError(
        'no_hosts_available',
        `The snapshot ${name} is on the host ${hostId}, which takes no new sandboxes: it is being drained.`,
        { remedy: 'Stop draining that host.' },
      );
    }
    try {
      const host = this.#hosts.connection(hostId);
      return { host, description: await host.describe() };
    } catch (reason) {
      const error = TorporError.from(reason);
      if (error.code !== 'host_unavailable' && error.code !== 'timeout') throw error;
      throw new TorporError(
        'host_unavailable',
        `The snapshot ${name} is on the host ${hostId}, which does not respond.`,
        { remedy: 'Start the agent of that host.', cause: error },
      );
    }
  }

  /** The images that sandboxes of the team can boot, by name. Throws as {@link choose}. */
  async images(teamId: string): Promise<readonly HostImage[]> {
    const places = await this.#places(teamId);
    const byName = new Map<string, HostImage>();
    for (const { description } of places) {
      for (const image of description.images) {
        if (!byName.has(image.name)) byName.set(image.name, image);
      }
    }
    return [...byName.values()].sort((a, b) => a.name.localeCompare(b.name));
  }

  /** At least one. */
  async #places(teamId: string): Promise<readonly Place[]> {
    const rows = await this.#db
      .selectFrom('hosts')
      .select('id')
      .where('state', '=', 'online')
      .where('draining', '=', false)
      .where(({ eb, or }) => or([eb('team_id', 'is', null), eb('team_id', '=', teamId)]))
      // Those of the team first.
      .orderBy(sql`team_id is null`)
      .orderBy('created_at')
      .execute();
    const reachable = new Map(this.#hosts.all().map((host) => [host.id, host]));
    const hosts = rows.flatMap(({ id }) => reachable.get(id) ?? []);
    if (hosts.length === 0) {
      throw new TorporError('no_hosts_available', 'No host is online that takes new sandboxes.', {
        remedy: 'Start the agent of a host, stop draining one, or add one.',
      });
    }
    const described = await Promise.allSettled(
      hosts.map(async (host) => ({ host, description: await host.describe() })),
    );
    const places = described.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []));
    if (places.length > 0) return places;
    const [failed] = described;
    throw failed?.status === 'rejected' ? failed.reason : new Error('No host was asked.');
  }
}

export interface MemoryRequest {
  readonly memoryMb: number;
  readonly hostMemoryMb: number;
}

/**
 * Reserves memory for a row that the transaction writes. Throws `no_hosts_available`. Holds
 * the host's lock until the end of the transaction, so that concurrent transactions cannot
 * reserve the same memory twice.
 */
export async function reserveMemory(
  transaction: Transaction<Database>,
  hostId: string,
  request: MemoryRequest,
): Promise<void> {
  const freeMb = await lockFreeMemory(transaction, hostId, request.hostMemoryMb);
  if (request.memoryMb > freeMb) throw noMemory(request, freeMb);
}

/** Memory of a host that is not reserved, in MB. No other transaction can reserve it until the end of this one. Throws `host_unavailable` for a host that was deleted. */
export async function lockFreeMemory(
  transaction: Transaction<Database>,
  hostId: string,
  hostMemoryMb: number,
): Promise<number> {
  await lockHost(transaction, hostId);
  const row = await transaction
    .selectFrom('hosts')
    .select('id')
    .where('id', '=', hostId)
    .executeTakeFirst();
  if (row === undefined) {
    throw new TorporError('host_unavailable', `The host ${hostId} was deleted.`, {
      remedy: 'Try again.',
    });
  }
  return hostMemoryMb - (await reservedMemory(transaction, hostId));
}

/** Until the end of the transaction no other one can place anything on the host. */
export async function lockHost(transaction: Transaction<Database>, hostId: string): Promise<void> {
  await sql`select pg_advisory_xact_lock(hashtextextended(${`host:${hostId}`}, 0))`.execute(
    transaction,
  );
}

async function reservedMemory(db: Kysely<Database>, hostId: string): Promise<number> {
  const { total } = await db
    .selectFrom('sandboxes')
    .select(sql<string>`coalesce(sum(memory_mb), 0)`.as('total'))
    .where('host_id', '=', hostId)
    .where('state', 'in', STATES_WITH_MEMORY)
    .executeTakeFirstOrThrow();
  return Number(total);
}

/** The error if a sandbox cannot be placed on a host with `freeMb` of memory that is not reserved. */
export function noMemory({ memoryMb, hostMemoryMb }: MemoryRequest, freeMb: number): TorporError {
  return new TorporError(
    'no_hosts_available',
    `No host has ${memoryMb} MiB of memory free for the sandbox: ${Math.max(freeMb, 0)} of ${hostMemoryMb} MiB are not reserved for other sandboxes.`,
  );
}
