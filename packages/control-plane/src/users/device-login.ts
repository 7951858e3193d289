/**
 * Logs a program in whose user has a browser elsewhere, as RFC 8628 describes: the program gets a
 * secret and a short code, shows the code, and asks for its session with the secret until the user
 * has entered the code on a page of this server and approved. The code alone gives nothing: it
 * only names what a user who is logged in may approve. The page says from where the program
 * asks, since the code could be one that somebody else has sent to the user (section 5.4).
 */
import { randomBytes, randomInt } from 'node:crypto';
import { TorporError } from '@torpor/protocol';
import type { Selectable } from 'kysely';
import type { AttemptLimit } from '../auth/attempts.ts';
import { type Principal, requireUser } from '../auth/principal.ts';
import type { Client } from '../auth/sessions.ts';
import { hashToken } from '../auth/tokens.ts';
import type { DeviceLoginTable } from '../database/schema.ts';
import { recorded } from '../events/record.ts';
import { type AccountParts, clientAttempt, type LoggedIn } from './accounts.ts';
import { startSession } from './start-session.ts';

const LIFETIME_MS = 10 * 60_000;
export const POLL_INTERVAL_SEC = 5;
/** A request this much too early is still served: its clock or its way may be quicker. */
const POLL_TOLERANCE_MS = 1_000;
/** Without vowels, so that it is no word, and without what looks alike. */
const CODE_LETTERS = 'BCDFGHJKLMNPQRSTVWXZ';
const CODE_LENGTH = 8;
/** Codes that one user can try. There are 2.6e10, and few are valid at a time. */
const CODES_OF_A_USER: AttemptLimit = { name: 'device-code', attempts: 20, windowMs: 15 * 60_000 };

export interface StartedDeviceLogin {
  readonly deviceCode: string;
  readonly userCode: string;
  readonly lifetimeSec: number;
}

/** What the user has to know before approving. */
export type DeviceRequest = Pick<
  Selectable<DeviceLoginTable>,
  'address' | 'user_agent' | 'created_at'
>;

export class DeviceLoginService {
  readonly #parts: AccountParts;

  constructor(parts: AccountParts) {
    this.#parts = parts;
  }

  /** Throws `rate_limited`. */
  async start(client: Client): Promise<StartedDeviceLogin> {
    const { db, limiter } = this.#parts;
    await limiter.take([clientAttempt(client)]);
    const deviceCode = randomBytes(32).toString('base64url');
    const letters = Array.from(
      { length: CODE_LENGTH },
      () => CODE_LETTERS[randomInt(CODE_LETTERS.length)],
    );
    const userCode = [letters.slice(0, 4).join(''), letters.slice(4).join('')].join('-');
    await db
      .insertInto('device_logins')
      .values({
        device_code_hash: hashToken(deviceCode),
        user_code_hash: hashUserCode(userCode),
        address: client.address ?? null,
        user_agent: client.userAgent?.slice(0, 256) ?? null,
        user_id: null,
        polled_at: null,
        expires_at: new Date(Date.now() + LIFETIME_MS),
      })
      .execute();
    return { deviceCode, userCode, lifetimeSec: LIFETIME_MS / 1000 };
  }

  /** What a code is for. Throws `not_found`, `rate_limited`. */
  async find(principal: Principal, userCode: string, client: Client): Promise<DeviceRequest> {
    const { db, limiter } = this.#parts;
    const { id } = requireUser(principal);
    await limiter.take([clientAttempt(client), { limit: CODES_OF_A_USER, subject: id }]);
    return db
      .selectFrom('device_logins')
      .select(['address', 'user_agent', 'created_at'])
      .where('user_code_hash', '=', hashUserCode(userCode))
      .where('state', '=', 'pending')
      .where('expires_at', '>', new Date())
      .executeTakeFirstOrThrow(unknownCode);
  }

  /** Throws `not_found`, `rate_limited`. */
  async decide(
    principal: Principal,
    userCode: string,
    decision: 'approved' | 'denied',
    client: Client,
  ): Promise<void> {
    const { db, limiter } = this.#parts;
    const { id } = requireUser(principal);
    await limiter.take([clientAttempt(client), { limit: CODES_OF_A_USER, subject: id }]);
    await db
      .updateTable('device_logins')
      .set({ state: decision, user_id: id })
      .where('user_code_hash', '=', hashUserCode(userCode))
      .where('state', '=', 'pending')
      .where('expires_at', '>', new Date())
      .returning('state')
      .executeTakeFirstOrThrow(unknownCode);
  }

  /**
   * Begins the session, once, if the user has approved; undefined while the user has not decided.
   * Throws `forbidden` if the user declined, `not_found`, `rate_limited` if it is asked too often.
   */
  async poll(deviceCode: string, client: Client): Promise<LoggedIn | undefined> {
    return recorded(this.#parts, async (transaction) => {
      const row = await transaction
        .selectFrom('device_logins')
        .selectAll()
        .where('device_code_hash', '=', hashToken(deviceCode))
        .where('expires_at', '>', new Date())
        .forUpdate()
        .executeTakeFirstOrThrow(expired);
      const mine = transaction
        .deleteFrom('device_logins')
        .where('device_code_hash', '=', row.device_code_hash);
      if (row.state === 'approved' && row.user_id !== null) {
        await mine.execute();
        const user = await transaction
          .selectFrom('users')
          .selectAll()
          .where('id', '=', row.user_id)
          .forShare()
          .executeTakeFirstOrThrow(expired);
        return startSession(transaction, user, client, { by: 'device' });
      }
      if (row.state === 'denied') return 'denied';
      if (isEarly(row)) throw tooEarly();
      await transaction
        .updateTable('device_logins')
        .set({ polled_at: new Date() })
        .where('device_code_hash', '=', row.device_code_hash)
        .execute();
      return undefined;
    }).then((result) => {
      if (result !== 'denied') return result;
      throw new TorporError('forbidden', 'The login was declined in the browser.');
    });
  }
}

function isEarly({ polled_at: polledAt }: Selectable<DeviceLoginTable>): boolean {
  const earliest = (polledAt?.getTime() ?? 0) + POLL_INTERVAL_SEC * 1000 - POLL_TOLERANCE_MS;
  return Date.now() < earliest;
}

/** People type it in small letters, and with or without the hyphen. */
function hashUserCode(code: string): string {
  return hashToken(code.toUpperCase().replaceAll(/[^A-Z]/g, ''));
}

function unknownCode(): TorporError {
  return new TorporError('not_found', 'There is no login with this code, or it has expired.', {
    remedy: 'Compare it with what the program shows.',
  });
}

function expired(): TorporError {
  return new TorporError('not_found', 'The login has expired, or was used.', {
    remedy: 'Begin it again.',
  });
}

function tooEarly(): TorporError {
  return new TorporError('rate_limited', 'The session was asked for too often.', {
    retryAfterSec: POLL_INTERVAL_SEC,
  });
}
