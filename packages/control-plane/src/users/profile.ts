import { TorporError } from '@torpor/protocol';
import type { Transaction } from 'kysely';
import { hashPassword, verifyPassword } from '../auth/passwords.ts';
import { type Principal, requireUser } from '../auth/principal.ts';
import { PLATFORM_TEAM_ID } from '../auth/roles.ts';
import type { Client } from '../auth/sessions.ts';
import { hashToken } from '../auth/tokens.ts';
import type { Database, UserRow } from '../database/schema.ts';
import { appendEvents } from '../events/outbox.ts';
import { recorded } from '../events/record.ts';
import { revokeLost } from '../teams/lost-rights.ts';
import {
  type AccountParts,
  actorOf,
  clientAttempt,
  defaultTeam,
  type User,
  userOf,
} from './accounts.ts';
import { attemptsOn, tryPassword } from './login.ts';
import { appendUserEvent } from './sessions.ts';

export interface PasswordChange {
  /** Undefined if the account has none. */
  readonly current: string | undefined;
  readonly next: string;
}

/** What users do with their own accounts. */
export class ProfileService {
  readonly #parts: AccountParts;

  constructor(parts: AccountParts) {
    this.#parts = parts;
  }

  /** The user of the principal; undefined for an API key. */
  async find({ user }: Principal): Promise<User | undefined> {
    return user === undefined ? undefined : userOf(await this.#row(user.id));
  }

  async rename(principal: Principal, name: string): Promise<User> {
    const { id } = requireUser(principal);
    return recorded(this.#parts, async (transaction) => {
      const row = await transaction
        .updateTable('users')
        .set({ name, updated_at: new Date() })
        .where('id', '=', id)
        .returningAll()
        .executeTakeFirstOrThrow();
      await appendUserEvent(transaction, 'user.update', principal, { name });
      return userOf(row);
    });
  }

  /** Ends all other sessions of the user, and a link that sets the password. Throws `forbidden` for a wrong password, `rate_limited`. */
  async changePassword(
    principal: Principal,
    { current, next }: PasswordChange,
    client: Client,
  ): Promise<void> {
    const { id, sessionId } = requireUser(principal);
    const row = await this.#row(id);
    const attempts = attemptsOn(row.email, client);
    const { limiter } = this.#parts;
    await limiter.take(attempts);
    const isAllowed =
      row.password_hash === null ||
      (await tryPassword(limiter, attempts, () =>
        verifyPassword(current ?? '', row.password_hash),
      ));
    if (!isAllowed) {
      await recorded(this.#parts, (transaction) =>
        appendUserEvent(transaction, 'user.change_password', principal, {}, 'error'),
      );
      throw new TorporError('forbidden', 'The current password is wrong.');
    }
    await limiter.forgive(attempts);
    const passwordHash = await hashPassword(next);
    await recorded(this.#parts, async (transaction) => {
      const changed = await transaction
        .updateTable('users')
        .set({ password_hash: passwordHash, updated_at: new Date() })
        .where('id', '=', id)
        .where('password_hash', 'is not distinct from', row.password_hash)
        .returning('id')
        .executeTakeFirst();
      if (changed === undefined) {
        throw new TorporError('conflict', 'The password was changed in the meantime.');
      }
      await endSessions(transaction, id, sessionId);
      await transaction.deleteFrom('password_links').where('user_id', '=', id).execute();
      await appendUserEvent(transaction, 'user.change_password', principal);
    });
  }

  /** Uses up a link that an operator made, and ends all sessions of its user. Throws `not_found`, `rate_limited`. */
  async setPassword(token: string, password: string, client: Client): Promise<void> {
    await this.#parts.limiter.take([clientAttempt(client)]);
    const passwordHash = await hashPassword(password);
    await recorded(this.#parts, async (transaction) => {
      const { user_id: id } = await transaction
        .deleteFrom('password_links')
        .where('token_hash', '=', hashToken(token))
        .where('expires_at', '>', new Date())
        .returning('user_id')
        .executeTakeFirstOrThrow(
          () =>
            new TorporError('not_found', 'The link was used or replaced, or has expired.', {
              remedy: 'Ask the operator of the platform for another one.',
            }),
        );
      const row = await transaction
        .updateTable('users')
        .set({ password_hash: passwordHash, updated_at: new Date() })
        .where('id', '=', id)
        .returningAll()
        .executeTakeFirstOrThrow();
      await endSessions(transaction, id);
      const teamId = (await defaultTeam(transaction, row)) ?? PLATFORM_TEAM_ID;
      await appendEvents(transaction, [
        {
          kind: 'user.change_password',
          resource: id,
          teamId,
          actor: actorOf(row),
          status: 'success',
          metadata: { by: 'link' },
        },
      ]);
    });
  }

  /**
   * Deletes the account of the user, with its sessions and keys. `confirmation`: its email
   * address. Throws `conflict` while the user owns a team, `invalid_request`.
   */
  async delete(principal: Principal, confirmation: string): Promise<void> {
    const { id } = requireUser(principal);
    await recorded(this.#parts, async (transaction) => {
      const { email } = await transaction
        .selectFrom('users')
        .select('email')
        .where('id', '=', id)
        .forUpdate()
        .executeTakeFirstOrThrow();
      if (confirmation.trim().toLowerCase() !== email) {
        throw new TorporError('invalid_request', 'The confirmation is not your email address.');
      }
      await assertOwnsNoTeam(transaction, id);
      await appendUserEvent(transaction, 'user.delete', principal, { email });
      const { actor } = principal;
      await revokeLost(transaction, { userId: id, keep: new Set(), actor });
      await transaction.deleteFrom('users').where('id', '=', id).execute();
    });
  }

  #row(id: string): Promise<UserRow> {
    return this.#parts.db
      .selectFrom('users')
      .selectAll()
      .where('id', '=', id)
      .executeTakeFirstOrThrow(() => new TorporError('not_found', 'The account was deleted.'));
  }
}

async function assertOwnsNoTeam(transaction: Transaction<Database>, userId: string): Promise<void> {
  const owned = await transaction
    .selectFrom('team_members')
    .innerJoin('teams', 'teams.id', 'team_members.team_id')
    .select('teams.name')
    .where('team_members.user_id', '=', userId)
    .where('team_members.role', '=', 'owner')
    .execute();
  if (owned.length === 0) return;
  const names = owned.map(({ name }) => name).join(', ');
  throw new TorporError('conflict', `You own ${names}.`, {
    remedy: 'Give the teams to other members, or delete them, first.',
  });
}

/** `except`: a session that goes on. */
export async function endSessions(
  transaction: Transaction<Database>,
  userId: string,
  except = '',
): Promise<void> {
  await transaction
    .deleteFrom('sessions')
    .where('user_id', '=', userId)
    .where('id', '<>', except)
    .execute();
}
