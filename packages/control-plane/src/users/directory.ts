import { type Permission, TorporError } from '@torpor/protocol';
import type { Transaction } from 'kysely';
import type { Principal } from '../auth/principal.ts';
import { PLATFORM_TEAM_ID, permissionsOf } from '../auth/roles.ts';
import { isDuplicate } from '../database/duplicate.ts';
import type { Database, EventKind, UserRow, UserStatus } from '../database/schema.ts';
import { appendEvents } from '../events/outbox.ts';
import { recorded } from '../events/record.ts';
import { revokeLost } from '../teams/lost-rights.ts';
import {
  insertMember,
  lockMembers,
  lockPermission,
  lockTeamReference,
} from '../teams/membership.ts';
import { type AccountParts, type User, userOf } from './accounts.ts';
import { insertLink, type PasswordLink } from './password-links.ts';
import { endSessions } from './profile.ts';
import { recordingTeam } from './sessions.ts';
import { emailTaken, insertOwnTeam, insertUser } from './sign-up.ts';

const LINK_LIFETIME_MS = 3 * 24 * 3_600_000;

/** All users, as the operator of the platform sees them. */
export class UserDirectory {
  readonly #parts: AccountParts;

  constructor(parts: AccountParts) {
    this.#parts = parts;
  }

  /** By email address. */
  async list(): Promise<User[]> {
    const rows = await this.#parts.db.selectFrom('users').selectAll().orderBy('email').execute();
    return rows.map(userOf);
  }

  /**
   * Makes an account without a password, and a link that sets one. The user becomes the owner
   * of the team of the principal if that has none, as the team of the first start has; else it gets a
   * team of its own. Throws `already_exists`.
   */
  async create(
    principal: Principal,
    request: { readonly email: string; readonly name: string; readonly isAdmin: boolean },
  ): Promise<{ readonly user: User; readonly link: PasswordLink }> {
    return recorded(this.#parts, async (transaction) => {
      await lockPermission(transaction, principal, 'platform');
      const row = await insertUser(transaction, { ...request, passwordHash: null });
      await this.#record(transaction, 'user.create', principal, row.id, {
        email: row.email,
        is_admin: String(row.is_admin),
      });
      await giveTeam(transaction, principal, row);
      return { user: userOf(row), link: await insertLink(transaction, row.id, LINK_LIFETIME_MS) };
    }).catch((reason: unknown) => {
      throw isDuplicate(reason) ? emailTaken() : reason;
    });
  }

  /** A link that sets a new password; earlier ones of the user are not valid any more. Throws `not_found`. */
  async createLink(principal: Principal, id: string): Promise<PasswordLink> {
    return recorded(this.#parts, async (transaction) => {
      await lockTeamReference(transaction, principal.teamId);
      await lockUsers(transaction, id, principal.onBehalfOf);
      await lockPermission(transaction, principal, 'platform');
      await this.#record(transaction, 'user.create_link', principal, id, {});
      return insertLink(transaction, id, LINK_LIFETIME_MS);
    });
  }

  /**
   * A user who is disabled loses all sessions and keys at once. Throws `not_found`, `conflict`
   * for what would take the platform from the one who asks.
   */
  async update(
    principal: Principal,
    id: string,
    changes: { readonly status?: UserStatus | undefined; readonly isAdmin?: boolean | undefined },
  ): Promise<User> {
    const { status, isAdmin } = changes;
    if (principal.onBehalfOf === id && (status === 'disabled' || isAdmin === false)) {
      throw new TorporError('conflict', 'You cannot take this from yourself.', {
        remedy: 'Ask another operator of the platform.',
      });
    }
    return recorded(this.#parts, async (transaction) => {
      await lockTeamReference(transaction, principal.teamId);
      await lockUsers(transaction, id, principal.onBehalfOf);
      await lockPermission(transaction, principal, 'platform');
      const row = await transaction
        .updateTable('users')
        .set({ status, is_admin: isAdmin, updated_at: new Date() })
        .where('id', '=', id)
        .returningAll()
        .executeTakeFirstOrThrow();
      await this.#record(transaction, 'user.update', principal, id, {
        ...(status === undefined ? {} : { status }),
        ...(isAdmin === undefined ? {} : { is_admin: String(isAdmin) }),
      });
      await revokeWhatIsLost(transaction, principal, row);
      return userOf(row);
    });
  }

  async #record(
    transaction: Transaction<Database>,
    kind: EventKind,
    principal: Principal,
    id: string,
    metadata: Readonly<Record<string, string>>,
  ): Promise<void> {
    const { actor } = principal;
    const teamId = recordingTeam(principal);
    await appendEvents(transaction, [
      { kind, resource: id, teamId, actor, status: 'success', metadata },
    ]);
  }
}

/** Locks a user and the operator who changes it, in one order for all. Throws `not_found`. */
async function lockUsers(
  transaction: Transaction<Database>,
  id: string,
  operatorId: string | undefined,
): Promise<void> {
  const locked = await transaction
    .selectFrom('users')
    .select('id')
    .where('id', 'in', [id, operatorId ?? id])
    .orderBy('id')
    .forUpdate()
    .execute();
  if (locked.some((user) => user.id === id)) return;
  throw new TorporError('not_found', 'There is no user with this id.');
}

async function giveTeam(
  transaction: Transaction<Database>,
  { teamId, actor }: Principal,
  user: UserRow,
): Promise<void> {
  await lockMembers(transaction, teamId);
  const owner = await transaction
    .selectFrom('team_members')
    .select('user_id')
    .where('team_id', '=', teamId)
    .where('role', '=', 'owner')
    .executeTakeFirst();
  if (owner === undefined && teamId !== PLATFORM_TEAM_ID) {
    await insertMember(transaction, { teamId, userId: user.id, role: 'owner', actor });
  } else {
    await insertOwnTeam(transaction, user);
  }
}

async function revokeWhatIsLost(
  transaction: Transaction<Database>,
  { actor }: Principal,
  { id, status, is_admin: isAdmin }: UserRow,
): Promise<void> {
  if (status === 'active') {
    // No role has more, but for what operators have.
    const keep = permissionsOf({ role: 'owner', isAdmin });
    await revokeLost(transaction, { userId: id, keep, actor });
    if (isAdmin) return;
    const lost = { userId: id, teamId: PLATFORM_TEAM_ID, keep: new Set<Permission>(), actor };
    await revokeLost(transaction, lost);
    return;
  }
  await endSessions(transaction, id);
  await transaction.deleteFrom('password_links').where('user_id', '=', id).execute();
  await revokeLost(transaction, { userId: id, keep: new Set(), actor });
}
