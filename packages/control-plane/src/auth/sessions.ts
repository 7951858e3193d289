import { newId, TorporError } from '@torpor/protocol';
import type { Kysely, Selectable, Transaction } from 'kysely';
import type { Database, SessionTable, TeamRole } from '../database/schema.ts';
import { NO_TEAM, type Principal } from './principal.ts';
import { permissionsOf, roleIn } from './roles.ts';
import { hashToken, isToken, newToken } from './tokens.ts';

const LIFETIME_MS = 30 * 24 * 3_600_000;
/** How exact `last_used_at` is: one write per session and minute. */
const LAST_USED_RESOLUTION_MS = 60_000;
const MAX_USER_AGENT_LENGTH = 256;

/** A session without the hash of its token. */
export type Session = Omit<Selectable<SessionTable>, 'token_hash'>;

/** One that was just begun: the only time that its token can be seen. */
export interface StartedSession {
  readonly session: Session;
  readonly token: string;
}

/** Where a request comes from. */
export interface Client {
  readonly address: string | undefined;
  readonly userAgent: string | undefined;
}

export const SESSION_COLUMNS = [
  'id',
  'user_id',
  'team_id',
  'address',
  'user_agent',
  'created_at',
  'last_used_at',
  'expires_at',
] as const satisfies readonly (keyof Session)[];

/** Finds the principals of sessions. All that it says is read from the database at each request. */
export class SessionStore {
  readonly #db: Kysely<Database>;

  constructor(db: Kysely<Database>) {
    this.#db = db;
  }

  /**
   * The principal of a session, in the team of `teamId`, or else in that of the session. Throws
   * `unauthorized`; `not_found` if the user is not in the team that is asked for.
   */
  async authenticate(token: string, teamId?: string): Promise<Principal> {
    const found = isToken('session', token) ? await this.#find(token) : undefined;
    if (found === undefined) throw sessionEnded();
    await this.#recordUse(found);
    const { user_id: userId, is_admin: isAdmin, name } = found;
    const wanted = teamId ?? found.team_id ?? undefined;
    const role = wanted === undefined ? undefined : await this.#roleIn(wanted, userId, isAdmin);
    if (teamId !== undefined && role === undefined) {
      throw new TorporError('not_found', 'There is no such team, or you are not in it.');
    }
    return {
      teamId: role === undefined ? NO_TEAM : (wanted ?? NO_TEAM),
      actor: { type: 'user', id: userId, name },
      permissions: permissionsOf({ role, isAdmin }),
      onBehalfOf: userId,
      user: { id: userId, sessionId: found.id },
    };
  }

  #find(token: string) {
    return this.#db
      .selectFrom('sessions')
      .innerJoin('users', 'users.id', 'sessions.user_id')
      .select([
        'sessions.id',
        'sessions.user_id',
        'sessions.team_id',
        'sessions.last_used_at',
        'users.name',
        'users.is_admin',
      ])
      .where('sessions.token_hash', '=', hashToken(token))
      .where('sessions.expires_at', '>', new Date())
      .where('users.status', '=', 'active')
      .executeTakeFirst();
  }

  async #roleIn(teamId: string, userId: string, isAdmin: boolean): Promise<TeamRole | undefined> {
    const member = await this.#db
      .selectFrom('team_members')
      .select('role')
      .where('team_id', '=', teamId)
      .where('user_id', '=', userId)
      .executeTakeFirst();
    return roleIn(teamId, { member: member?.role, isAdmin });
  }

  async #recordUse({ id, last_used_at: lastUsed }: Pick<Session, 'id' | 'last_used_at'>) {
    if (Date.now() - lastUsed.getTime() <= LAST_USED_RESOLUTION_MS) return;
    await this.#db
      .updateTable('sessions')
      .set({ last_used_at: new Date() })
      .where('id', '=', id)
      .execute();
  }
}

export async function insertSession(
  transaction: Transaction<Database>,
  userId: string,
  teamId: string | null,
  { address, userAgent }: Client,
): Promise<StartedSession> {
  const token = newToken('session');
  const session = await transaction
    .insertInto('sessions')
    .values({
      id: newId('session'),
      token_hash: hashToken(token),
      user_id: userId,
      team_id: teamId,
      address: address ?? null,
      user_agent: userAgent?.slice(0, MAX_USER_AGENT_LENGTH) ?? null,
      expires_at: new Date(Date.now() + LIFETIME_MS),
    })
    .returning(SESSION_COLUMNS)
    .executeTakeFirstOrThrow();
  return { session, token };
}

export function sessionEnded(): TorporError {
  return new TorporError('unauthorized', 'The session has expired, or was ended.', {
    remedy: 'Log in again.',
  });
}
