/**
 * A fence is the proof, for the agent, of the right to change a resource: a number that is
 * higher than those of all earlier holders of its lease. Leases alone do not suffice: a control
 * plane may hang after it has confirmed its own, and call the agent when another has already
 * settled the operation. The agent refuses that call, because its fence is lower than that of the
 * control plane that asked how far the operation got.
 */
import { sql, type Transaction } from 'kysely';
import type { Database } from '../database/schema.ts';

/**
 * A new fence, in a transaction that has confirmed the leases: it keeps their rows locked, so no
 * other holder can get a fence before this one has. It is the next number of a sequence or the
 * time in microseconds, whichever is higher: so the fences of a database that is restored
 * from an old copy continue above those that the agents know.
 */
export async function nextFence(transaction: Transaction<Database>): Promise<bigint> {
  const { fence } = await transaction
    .selectNoFrom(
      sql<string>`setval('fences', greatest(
        nextval('fences'), (extract(epoch from clock_timestamp()) * 1000000)::bigint
      ))`.as('fence'),
    )
    .executeTakeFirstOrThrow();
  return BigInt(fence);
}
