import { TorporError } from '@torpor/protocol';
import type { Selectable, Transaction } from 'kysely';
import { NO_TEAM, type Principal, requireUser } from '../auth/principal.ts';
import { PLATFORM_TEAM_ID } from '../auth/roles.ts';
import type { Database, TeamRole, TeamTable } from '../database/schema.ts';
import { appendEvents } from '../events/outbox.ts';
import { type RecordingParts, recorded } from '../events/record.ts';
import { insertTeam, lockPermission, requireRoomForTeam } from './membership.ts';

export type Team = Selectable<TeamTable> & {
  /** That of the user who asks; undefined for an API key. */
  readonly role: TeamRole | undefined;
};

interface Parts extends RecordingParts {
  /** How many teams a user may own, who is no operator. */
  readonly teamsPerUser: number;
}

export class TeamService {
  readonly #parts: Parts;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  /** Makes a team whose owner is the user. Throws `forbidden` for an API key, `quota_exceeded`. */
  async create(principal: Principal, name: string): Promise<Team> {
    const { id: ownerId } = requireUser(principal);
    const team = await recorded(this.#parts, async (transaction) => {
      await requireRoomForTeam(transaction, ownerId, this.#parts.teamsPerUser);
      return insertTeam(transaction, { name, ownerId, actor: principal.actor });
    });
    return { ...team, role: 'owner' };
  }

  /** Those of the user, by name; that of an API key. */
  async list(principal: Principal): Promise<Team[]> {
    if (principal.user === undefined) return [await this.get(principal)];
    const teams = await this.#parts.db
      .selectFrom('teams')
      .innerJoin('team_members', 'team_members.team_id', 'teams.id')
      .select(['teams.id', 'teams.name', 'teams.created_at', 'team_members.role'])
      .where('team_members.user_id', '=', principal.user.id)
      .orderBy('teams.name')
      .orderBy('teams.id')
      .execute();
    if (!principal.permissions.has('platform')) return teams;
    return [...teams, { ...(await this.#find(PLATFORM_TEAM_ID)), role: 'admin' }];
  }

  /** The team of the principal. */
  async get(principal: Principal): Promise<Team> {
    const { teamId, user } = principal;
    const team = await this.#find(teamId);
    if (user === undefined) return { ...team, role: undefined };
    const member = await this.#parts.db
      .selectFrom('team_members')
      .select('role')
      .where('team_id', '=', teamId)
      .where('user_id', '=', user.id)
      .executeTakeFirst();
    return { ...team, role: member?.role ?? 'admin' };
  }

  /** The team of the principal; undefined if it is in none. */
  async find(principal: Principal): Promise<Team | undefined> {
    return principal.teamId === NO_TEAM ? undefined : this.get(principal);
  }

  async rename(principal: Principal, name: string): Promise<Team> {
    await recorded(this.#parts, async (transaction) => {
      await lockPermission(transaction, principal, 'team.write');
      await transaction
        .updateTable('teams')
        .set({ name })
        .where('id', '=', principal.teamId)
        .execute();
      await appendTeamEvent(transaction, 'team.update', principal, name);
    });
    return this.get(principal);
  }

  /**
   * Deletes the team of the principal with its keys, webhooks, members and invitations. The audit log and its
   * usage stay. Throws `conflict` while it has sandboxes, snapshots or hosts.
   */
  async delete(principal: Principal): Promise<void> {
    const { teamId } = principal;
    if (teamId === PLATFORM_TEAM_ID) {
      throw new TorporError('forbidden', 'The team of the platform cannot be deleted.');
    }
    await recorded(this.#parts, async (transaction) => {
      // A row that refers to the team needs a lock that this one excludes: none can be added now.
      await transaction
        .selectFrom('teams')
        .select('id')
        .where('id', '=', teamId)
        .forUpdate()
        .execute();
      await lockPermission(transaction, principal, 'team.delete');
      const { name } = await transaction
        .selectFrom('teams')
        .select('name')
        .where('id', '=', teamId)
        .executeTakeFirstOrThrow(noTeam);
      await assertUnused(transaction, teamId);
      await transaction.deleteFrom('sandboxes').where('team_id', '=', teamId).execute();
      await transaction.deleteFrom('teams').where('id', '=', teamId).execute();
      await appendTeamEvent(transaction, 'team.delete', principal, name);
    });
  }

  #find(id: string): Promise<Selectable<TeamTable>> {
    return this.#parts.db
      .selectFrom('teams')
      .select(['id', 'name', 'created_at'])
      .where('id', '=', id)
      .executeTakeFirstOrThrow(noTeam);
  }
}

async function assertUnused(transaction: Transaction<Database>, teamId: string): Promise<void> {
  const count = async (table: 'sandboxes' | 'templates' | 'hosts') => {
    let query = transaction
      .selectFrom(table)
      .select(({ fn }) => fn.countAll<string>().as('rows'))
      .where('team_id', '=', teamId);
    if (table === 'sandboxes') query = query.where('state', '<>', 'stopped');
    return Number((await query.executeTakeFirstOrThrow()).rows);
  };
  const [sandboxes, snapshots, hosts] = [
    await count('sandboxes'),
    await count('templates'),
    await count('hosts'),
  ];
  if (sandboxes + snapshots + hosts > 0) {
    throw new TorporError(
      'conflict',
      `The team still has sandboxes (${sandboxes}), snapshots (${snapshots}) or hosts (${hosts}).`,
      { remedy: 'Destroy its sandboxes, and delete its snapshots and hosts, first.' },
    );
  }
  const local = await transaction
    .selectFrom('api_keys')
    .select('id')
    .where('team_id', '=', teamId)
    .where('created_by', 'is', null)
    .executeTakeFirst();
  if (local !== undefined) {
    throw new TorporError('conflict', 'The key in the data directory of a server is of this team.');
  }
}

async function appendTeamEvent(
  transaction: Transaction<Database>,
  kind: 'team.update' | 'team.delete',
  { teamId, actor }: Principal,
  name: string,
): Promise<void> {
  await appendEvents(transaction, [
    { kind, resource: teamId, teamId, actor, status: 'success', metadata: { name } },
  ]);
}

function noTeam(): TorporError {
  return new TorporError('not_found', 'There is no such team.');
}
