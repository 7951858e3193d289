import { TorporError } from '@torpor/protocol';
import type { Transaction } from 'kysely';
import { type Principal, requireUser } from '../auth/principal.ts';
import { PLATFORM_TEAM_ID, permissionsOf } from '../auth/roles.ts';
import type { Database, EventKind, TeamRole } from '../database/schema.ts';
import { appendEvents } from '../events/outbox.ts';
import { type RecordingParts, recorded } from '../events/record.ts';
import { revokeLost } from './lost-rights.ts';
import { lockMembers, lockPermission, requireRoomForTeam } from './membership.ts';

export interface Member {
  readonly user_id: string;
  readonly name: string;
  readonly email: string;
  readonly role: TeamRole;
  readonly created_at: Date;
}

interface Parts extends RecordingParts {
  /** How many teams a user may own, who is no operator. */
  readonly teamsPerUser: number;
}

/** The members of the team of a principal. */
export class MemberService {
  readonly #parts: Parts;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  /** In the order in which they joined. Those of the platform's team are its operators. */
  async list({ teamId }: Principal): Promise<Member[]> {
    if (teamId === PLATFORM_TEAM_ID) return this.#operators();
    return this.#parts.db
      .selectFrom('team_members')
      .innerJoin('users', 'users.id', 'team_members.user_id')
      .select([
        'team_members.user_id',
        'users.name',
        'users.email',
        'team_members.role',
        'team_members.created_at',
      ])
      .where('team_members.team_id', '=', teamId)
      .orderBy('team_members.created_at')
      .orderBy('team_members.user_id')
      .execute();
  }

  /**
   * Gives a member another role; `owner` makes the previous owner an admin, which only the
   * owner may do. Throws `not_found`, `conflict` for the role of the owner, `quota_exceeded` for a
   * new owner of too many teams.
   */
  async changeRole(principal: Principal, userId: string, role: TeamRole): Promise<void> {
    await recorded(this.#parts, async (transaction) => {
      await lockMembers(transaction, principal.teamId);
      await lockPermission(transaction, principal, role === 'owner' ? 'team.delete' : 'team.write');
      const previous = await findRole(transaction, principal, userId);
      if (previous === role) return;
      if (previous === 'owner') throw ownerStays();
      if (role === 'owner') {
        await requireRoomForTeam(transaction, userId, this.#parts.teamsPerUser);
        await this.#demoteOwner(transaction, principal);
      }
      await setRole(transaction, principal, userId, { role, previous });
    });
  }

  /** The user loses access at once, and the keys and invitations that the user made with it. Throws `not_found`, `conflict` for the owner. */
  async remove(principal: Principal, userId: string): Promise<void> {
    await recorded(this.#parts, async (transaction) => {
      await lockMembers(transaction, principal.teamId);
      await lockPermission(transaction, principal, 'team.write');
      await removeMember(transaction, principal, userId, 'member.remove');
    });
  }

  /** Removes the user of the principal. Throws `conflict` for the owner, `forbidden` for an API key. */
  async leave(principal: Principal): Promise<void> {
    const { id } = requireUser(principal);
    await recorded(this.#parts, async (transaction) => {
      await lockMembers(transaction, principal.teamId);
      await removeMember(transaction, principal, id, 'member.leave');
    });
  }

  async #operators(): Promise<Member[]> {
    const users = await this.#parts.db
      .selectFrom('users')
      .select(['id as user_id', 'name', 'email', 'created_at'])
      .where('is_admin', '=', true)
      .orderBy('created_at')
      .orderBy('id')
      .execute();
    return users.map((user) => ({ ...user, role: 'admin' }));
  }

  async #demoteOwner(transaction: Transaction<Database>, principal: Principal): Promise<void> {
    const owner = await transaction
      .selectFrom('team_members')
      .select('user_id')
      .where('team_id', '=', principal.teamId)
      .where('role', '=', 'owner')
      .executeTakeFirst();
    if (owner === undefined) return;
    await setRole(transaction, principal, owner.user_id, { role: 'admin', previous: 'owner' });
  }
}

async function findRole(
  transaction: Transaction<Database>,
  { teamId }: Principal,
  userId: string,
): Promise<TeamRole> {
  const { role } = await transaction
    .selectFrom('team_members')
    .select('role')
    .where('team_id', '=', teamId)
    .where('user_id', '=', userId)
    .executeTakeFirstOrThrow(
      () => new TorporError('not_found', 'The team has no member with this id.'),
    );
  return role;
}

async function setRole(
  transaction: Transaction<Database>,
  principal: Principal,
  userId: string,
  { role, previous }: { readonly role: TeamRole; readonly previous: TeamRole },
): Promise<void> {
  const { teamId, actor } = principal;
  await transaction
    .updateTable('team_members')
    .set({ role })
    .where('team_id', '=', teamId)
    .where('user_id', '=', userId)
    .execute();
  const keep = await permissionsIn(transaction, userId, role);
  await revokeLost(transaction, { userId, teamId, keep, actor });
  await appendMemberEvent(transaction, 'member.update', principal, userId, { role, previous });
}

async function removeMember(
  transaction: Transaction<Database>,
  principal: Principal,
  userId: string,
  kind: EventKind,
): Promise<void> {
  const { teamId, actor } = principal;
  // The deletion of an account locks this row first too.
  await transaction
    .selectFrom('users')
    .select('id')
    .where('id', '=', userId)
    .forKeyShare()
    .execute();
  const role = await findRole(transaction, principal, userId);
  if (role === 'owner') throw ownerStays();
  await transaction
    .deleteFrom('team_members')
    .where('team_id', '=', teamId)
    .where('user_id', '=', userId)
    .execute();
  await revokeLost(transaction, { userId, teamId, keep: new Set(), actor });
  await transaction
    .updateTable('sessions')
    .set({ team_id: null })
    .where('user_id', '=', userId)
    .where('team_id', '=', teamId)
    .execute();
  await appendMemberEvent(transaction, kind, principal, userId, { role });
}

async function permissionsIn(
  transaction: Transaction<Database>,
  userId: string,
  role: TeamRole,
): Promise<ReturnType<typeof permissionsOf>> {
  const { is_admin: isAdmin } = await transaction
    .selectFrom('users')
    .select('is_admin')
    .where('id', '=', userId)
    .executeTakeFirstOrThrow();
  return permissionsOf({ role, isAdmin });
}

async function appendMemberEvent(
  transaction: Transaction<Database>,
  kind: EventKind,
  { teamId, actor }: Principal,
  userId: string,
  metadata: Readonly<Record<string, string>>,
): Promise<void> {
  await appendEvents(transaction, [
    { kind, resource: userId, teamId, actor, status: 'success', metadata },
  ]);
}

function ownerStays(): TorporError {
  return new TorporError('conflict', 'The owner of a team cannot be removed, nor lose the role.', {
    remedy: 'Make another member the owner first, or delete the team.',
  });
}
