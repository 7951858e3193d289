import { TorporError } from '@torpor/protocol';
import type { Selectable } from 'kysely';
import {
  type Attempt,
  type AttemptLimit,
  type AttemptLimiter,
  clientNetwork,
  type Refusal,
  tooManyAttempts,
} from '../auth/attempts.ts';
import { verifyPassword } from '../auth/passwords.ts';
import { SYSTEM } from '../auth/principal.ts';
import { PLATFORM_TEAM_ID } from '../auth/roles.ts';
import type { Client } from '../auth/sessions.ts';
import type { UserTable } from '../database/schema.ts';
import { appendEvents } from '../events/outbox.ts';
import { recorded } from '../events/record.ts';
import { type AccountParts, clientAttempt, defaultTeam, type LoggedIn } from './accounts.ts';
import { startSession } from './start-session.ts';

/** An account from one place. Others can still log in to it, so that nobody is locked out by a stranger. */
const FROM_ONE_CLIENT: AttemptLimit = { name: 'login', attempts: 10, windowMs: 15 * 60_000 };
/** An account from everywhere, against guesses from many places; more than a few of those can use up. */
const FROM_ANYWHERE: AttemptLimit = { name: 'account', attempts: 300, windowMs: 3_600_000 };

export interface LoginRequest {
  readonly email: string;
  readonly password: string;
}

/** Logs users in with their passwords. */
export class LoginService {
  readonly #parts: AccountParts;

  constructor(parts: AccountParts) {
    this.#parts = parts;
  }

  /**
   * Begins a session. That an account does not exist cannot be told from a wrong password: not
   * from the error, the time, or the number of attempts. Throws `unauthorized`, `rate_limited`,
   * `forbidden` for an account that is disabled.
   */
  async login({ email, password }: LoginRequest, client: Client): Promise<LoggedIn> {
    const { db, limiter } = this.#parts;
    const attempts = attemptsOn(email, client);
    const refusal = await limiter.count(attempts);
    if (refusal !== undefined) {
      this.#recordLock(email, client, refusal);
      throw tooManyAttempts(refusal);
    }
    const row = await db
      .selectFrom('users')
      .selectAll()
      .where('email', '=', email)
      .executeTakeFirst();
    const isValid = await tryPassword(limiter, attempts, () =>
      verifyPassword(password, row?.password_hash),
    );
    if (row === undefined || !isValid || row.status !== 'active') {
      this.#record('user.login', email, client);
    }
    if (row === undefined || !isValid) throw wrongCredentials();
    await limiter.forgive(attempts);
    return this.#begin(row, client);
  }

  /** Begins the session of a user whose password has been verified. */
  #begin(verified: Selectable<UserTable>, client: Client): Promise<LoggedIn> {
    return recorded(this.#parts, async (transaction) => {
      // It may have been disabled, or got another password, in the meantime.
      const row = await transaction
        .selectFrom('users')
        .selectAll()
        .where('id', '=', verified.id)
        .where('password_hash', '=', verified.password_hash)
        .forShare()
        .executeTakeFirstOrThrow(wrongCredentials);
      return startSession(transaction, row, client);
    });
  }

  /** Records a lock, once in its window. */
  #recordLock(email: string, client: Client, { isFirst, attempt }: Refusal): void {
    if (!isFirst || attempt.limit === clientAttempt(client).limit) return;
    this.#record('user.lock', email, client);
  }

  /**
   * Records what failed. Not awaited, so that the response takes as long if there is no such
   * account. That of an unknown account does not have its address, which may be a password that
   * was typed into the wrong field.
   */
  #record(kind: 'user.login' | 'user.lock', email: string, { address }: Client): void {
    const record = recorded(this.#parts, async (transaction) => {
      const user = await transaction
        .selectFrom('users')
        .select(['id', 'is_admin'])
        .where('email', '=', email)
        .executeTakeFirst();
      if (user === undefined && kind === 'user.lock') return;
      const team = user === undefined ? null : await defaultTeam(transaction, user);
      await appendEvents(transaction, [
        {
          kind,
          resource: user?.id ?? 'unknown',
          teamId: team ?? PLATFORM_TEAM_ID,
          actor: SYSTEM,
          status: 'error',
          metadata: address === undefined ? {} : { address },
        },
      ]);
    });
    record.catch((reason: unknown) => {
      const err = TorporError.from(reason);
      this.#parts.logger.warn({ err }, 'Could not record a failed login');
    });
  }
}

/** What an attempt to log in, or to change a password with the current one, counts for. */
export function attemptsOn(email: string, client: Client): Attempt[] {
  const from = clientNetwork(client.address ?? 'unknown');
  return [
    { limit: FROM_ONE_CLIENT, subject: `${email}\0${from}` },
    clientAttempt(client),
    { limit: FROM_ANYWHERE, subject: email },
  ];
}

/** The attempts do not count if the server could not check the password. */
export async function tryPassword(
  limiter: AttemptLimiter,
  attempts: readonly Attempt[],
  verify: () => Promise<boolean>,
): Promise<boolean> {
  try {
    return await verify();
  } catch (reason) {
    await limiter.forgive(attempts);
    throw reason;
  }
}

function wrongCredentials(): TorporError {
  return new TorporError('unauthorized', 'The email address or the password is wrong.', {
    remedy: 'Check both. An operator of the platform can make a link that sets a new password.',
  });
}
