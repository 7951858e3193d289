import { createHash } from 'node:crypto';
import { TorporError } from '@torpor/protocol';
import ipaddr from 'ipaddr.js';
import { type Kysely, sql } from 'kysely';
import type { Database } from '../database/schema.ts';

/** How many attempts a subject has in a window, which begins with the first. */
export interface AttemptLimit {
  readonly name: string;
  readonly attempts: number;
  readonly windowMs: number;
}

/** Something whose attempts are counted: an account, or where requests come from. */
export interface Attempt {
  readonly limit: AttemptLimit;
  readonly subject: string;
}

export interface Refusal {
  readonly attempt: Attempt;
  /** Whether it is the first one in its window. */
  readonly isFirst: boolean;
  readonly retryAfterSec: number;
}

/**
 * Limits how often credentials can be tried. The counts are rows of the database, incremented
 * before the attempt in one statement, so that neither concurrent attempts nor several control
 * planes let more through. Subjects are stored as hashes.
 */
export class AttemptLimiter {
  readonly #db: Kysely<Database>;

  constructor(db: Kysely<Database>) {
    this.#db = db;
  }

  /**
   * Counts an attempt, for each in order up to the first that has none left: what is refused for
   * one client must not use up what others have. Returns why it is refused, or undefined.
   */
  async count(attempts: readonly Attempt[]): Promise<Refusal | undefined> {
    for (const attempt of attempts) {
      const { limit } = attempt;
      const { made, leftMs } = await this.#increment(attempt);
      if (made <= limit.attempts) continue;
      const retryAfterSec = Math.max(1, Math.ceil(leftMs / 1000));
      return { attempt, isFirst: made === limit.attempts + 1, retryAfterSec };
    }
    return undefined;
  }

  /** Like {@link count}, but throws `rate_limited`. */
  async take(attempts: readonly Attempt[]): Promise<void> {
    const refusal = await this.count(attempts);
    if (refusal !== undefined) throw tooManyAttempts(refusal);
  }

  /** After a success: the attempts do not count. */
  async forgive(attempts: readonly Attempt[]): Promise<void> {
    await this.#db
      .updateTable('credential_attempts')
      .set({ attempts: sql`greatest(attempts - 1, 0)` })
      .where('key', 'in', attempts.map(keyOf))
      .execute();
  }

  /** Removes counts whose window is over. */
  async removeExpired(): Promise<void> {
    await this.#db
      .deleteFrom('credential_attempts')
      .where(sql<boolean>`window_ends_at <= now()`)
      .execute();
  }

  async #increment(attempt: Attempt): Promise<{ made: number; leftMs: number }> {
    const windowEnd = sql`clock_timestamp() + ${attempt.limit.windowMs} * interval '1 millisecond'`;
    const { rows } = await sql<{ made: number; leftMs: number }>`
      insert into credential_attempts as known (key, attempts, window_ends_at)
      values (${keyOf(attempt)}, 1, ${windowEnd})
      on conflict (key) do update set
        attempts = case when known.window_ends_at <= clock_timestamp() then 1 else known.attempts + 1 end,
        window_ends_at =
          case when known.window_ends_at <= clock_timestamp() then ${windowEnd} else known.window_ends_at end
      returning attempts as made,
        (extract(epoch from window_ends_at - clock_timestamp()) * 1000)::float8 as "leftMs"`.execute(
      this.#db,
    );
    return rows[0] ?? { made: 0, leftMs: 0 };
  }
}

export function tooManyAttempts({ retryAfterSec }: Refusal): TorporError {
  return new TorporError(
    'rate_limited',
    `There were too many attempts; the next one is possible in ${retryAfterSec} s.`,
    { retryAfterSec },
  );
}

/** An IPv4 address, or the /64 network of an IPv6 address, which is what one client can have. */
export function clientNetwork(address: string): string {
  if (!ipaddr.isValid(address)) return address;
  const parsed = ipaddr.process(address);
  if (parsed.kind() === 'ipv4') return parsed.toString();
  const bytes = parsed.toByteArray();
  return new ipaddr.IPv6([...bytes.slice(0, 8), ...Array<number>(8).fill(0)]).toString();
}

function keyOf({ limit, subject }: Attempt): string {
  return createHash('sha256').update(`${limit.name}\0${subject}`).digest('hex');
}
