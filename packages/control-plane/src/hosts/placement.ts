/**
 * Which host gets a sandbox, and the reservation of its memory there. Reservations are rows:
 * a sandbox counts from the transaction that makes it `creating` or `resuming` until it is
 * paused, has failed or is destroyed.
 */
import { STATES_WITH_MEMORY, TorporError } from '@torpor/protocol';
import { sql, type Transaction } from 'kysely';
import type { Database } from '../database/schema.ts';
import type { HostConnection, HostDescription } from './connection.ts';
import type { HostRegistry } from './registry.ts';

export interface Place {
  readonly host: HostConnection;
  readonly description: HostDescription;
}

export class Placement {
  readonly #hosts: HostRegistry;

  constructor(hosts: HostRegistry) {
    this.#hosts = hosts;
  }

  /** The host for a new sandbox: `hostId` if given. Throws `no_hosts_available`, `host_unavailable`. */
  async choose(hostId?: string): Promise<Place> {
    const [first] = this.#hosts.all();
    const host = hostId === undefined ? first : this.#hosts.connection(hostId);
    if (host === undefined) {
      throw new TorporError('no_hosts_available', 'No host has joined this control plane.');
    }
    return { host, description: await host.describe() };
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

/** Memory of a host that is not reserved, in MB. No other transaction can reserve it until the end of this one. */
export async function lockFreeMemory(
  transaction: Transaction<Database>,
  hostId: string,
  hostMemoryMb: number,
): Promise<number> {
  await sql`select pg_advisory_xact_lock(hashtextextended(${`host:${hostId}`}, 0))`.execute(
    transaction,
  );
  const { total } = await transaction
    .selectFrom('sandboxes')
    .select(sql<string>`coalesce(sum(memory_mb), 0)`.as('total'))
    .where('host_id', '=', hostId)
    .where('state', 'in', STATES_WITH_MEMORY)
    .executeTakeFirstOrThrow();
  return hostMemoryMb - Number(total);
}

/** The error if a sandbox cannot be placed on a host with `freeMb` of memory that is not reserved. */
export function noMemory({ memoryMb, hostMemoryMb }: MemoryRequest, freeMb: number): TorporError {
  return new TorporError(
    'no_hosts_available',
    `No host has ${memoryMb} MiB of memory free for the sandbox: ${Math.max(freeMb, 0)} of ${hostMemoryMb} MiB are not reserved for other sandboxes.`,
  );
}
