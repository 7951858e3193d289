import { newId, type Permission, TorporError } from '@torpor/protocol';
import { sql, type Transaction } from 'kysely';
import { type Actor, type Principal, requirePermission } from '../auth/principal.ts';
import { permissionsOf, roleIn } from '../auth/roles.ts';
import type { Database, TeamRole } from '../database/schema.ts';
import { appendEvents } from '../events/outbox.ts';

/**
 * Throws `forbidden` unless the user on whose behalf the principal acts still has the permission,
 * and keeps it so until the transaction ends. What outlives its request, such as a key, is made
 * under this lock: otherwise a member who is just being removed could keep one.
 *
 * Every transaction locks in the order teams, users, members, so that none waits in a circle.
 */
export async function lockPermission(
  transaction: Transaction<Database>,
  principal: Principal,
  ...needed: readonly Permission[]
): Promise<void> {
  const { teamId, onBehalfOf } = principal;
  if (onBehalfOf === undefined) return;
  await lockTeamReference(transaction, teamId);
  const user = await transaction
    .selectFrom('users')
    .select('is_admin')
    .where('id', '=', onBehalfOf)
    .where('status', '=', 'active')
    .forShare()
    .executeTakeFirst();
  const member = await transaction
    .selectFrom('team_members')
    .select('role')
    .where('team_id', '=', teamId)
    .where('user_id', '=', onBehalfOf)
    .forShare()
    .executeTakeFirst();
  const isAdmin = user?.is_admin ?? false;
  const role = user === undefined ? undefined : roleIn(teamId, { member: member?.role, isAdmin });
  const current = { ...principal, permissions: permissionsOf({ role, isAdmin }) };
  for (const permission of needed) requirePermission(current, permission);
}

/** Lets the team be deleted only after the transaction. */
export async function lockTeamReference(
  transaction: Transaction<Database>,
  id: string,
): Promise<void> {
  await transaction.selectFrom('teams').select('id').where('id', '=', id).forKeyShare().execute();
}

/** Serialises changes of the members of a team. Rows that refer to the team can still be added. */
export async function lockMembers(transaction: Transaction<Database>, id: string): Promise<void> {
  await transaction
    .selectFrom('teams')
    .select('id')
    .where('id', '=', id)
    .forNoKeyUpdate()
    .execute();
}

/**
 * Throws `quota_exceeded` if the user owns `most` teams or more and is no operator. No other
 * transaction can give the user a team until the end of this one.
 */
export async function requireRoomForTeam(
  transaction: Transaction<Database>,
  userId: string,
  most: number,
): Promise<void> {
  await sql`select pg_advisory_xact_lock(hashtextextended(${`teams:${userId}`}, 0))`.execute(
    transaction,
  );
  const { owned } = await transaction
    .selectFrom('team_members')
    .innerJoin('users', 'users.id', 'team_members.user_id')
    .select(({ fn }) => fn.countAll<string>().as('owned'))
    .where('user_id', '=', userId)
    .where('role', '=', 'owner')
    .where('is_admin', '=', false)
    .executeTakeFirstOrThrow();
  if (Number(owned) < most) return;
  throw new TorporError(
    'quota_exceeded',
    `A user may own ${most} teams here; this one owns ${owned}.`,
    {
      remedy:
        'Delete a team or make another member its owner, or ask the operator of the platform for a larger teams_per_user.',
    },
  );
}

export interface NewTeam {
  readonly name: string;
  readonly ownerId: string;
  readonly actor: Actor;
}

export async function insertTeam(
  transaction: Transaction<Database>,
  { name, ownerId, actor }: NewTeam,
): Promise<{ readonly id: string; readonly name: string; readonly created_at: Date }> {
  const team = await transaction
    .insertInto('teams')
    .values({ id: newId('team'), name })
    .returning(['id', 'name', 'created_at'])
    .executeTakeFirstOrThrow();
  await appendEvents(transaction, [
    {
      kind: 'team.create',
      resource: team.id,
      teamId: team.id,
      actor,
      status: 'success',
      metadata: { name },
    },
  ]);
  await insertMember(transaction, { teamId: team.id, userId: ownerId, role: 'owner', actor });
  return team;
}

export interface NewMember {
  readonly teamId: string;
  readonly userId: string;
  readonly role: TeamRole;
  readonly actor: Actor;
  /** By which the user comes. */
  readonly invitationId?: string;
}

/** Throws `already_exists`. */
export async function insertMember(
  transaction: Transaction<Database>,
  { teamId, userId, role, actor, invitationId }: NewMember,
): Promise<void> {
  const inserted = await transaction
    .insertInto('team_members')
    .values({ team_id: teamId, user_id: userId, role })
    .onConflict((conflict) => conflict.columns(['team_id', 'user_id']).doNothing())
    .returning('user_id')
    .executeTakeFirst();
  if (inserted === undefined) {
    throw new TorporError('already_exists', 'You are already in this team.', { remedy: '' });
  }
  const invitation = invitationId === undefined ? {} : { invitation: invitationId };
  await appendEvents(transaction, [
    {
      kind: 'member.add',
      resource: userId,
      teamId,
      actor,
      status: 'success',
      metadata: { role, ...invitation },
    },
  ]);
}
