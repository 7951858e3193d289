import { type Permission, TorporError } from '@torpor/protocol';
import type { Kysely } from 'kysely';
import type { Logger } from 'pino';
import type { Database, TeamRole } from '../database/schema.ts';
import { type Principal, requirePermission } from './principal.ts';
import { permissionsOf, roleIn } from './roles.ts';
import { sessionEnded } from './sessions.ts';

/** How late an open stream may notice that its client has lost access. */
const CHECK_INTERVAL_MS = 1_000;

/** The access of one stream. Must be disposed of with the stream. */
export interface WatchedAccess extends Disposable {
  /** Aborts with `unauthorized` or `forbidden` when the access is lost. */
  readonly signal: AbortSignal;
}

interface Entry {
  readonly principal: Principal;
  readonly needs: readonly Permission[];
  readonly lost: AbortController;
}

/** What the database says now about the principals of streams. */
interface Current {
  /** Scopes of the keys that are valid, by id. */
  readonly keys: ReadonlyMap<string, readonly Permission[]>;
  /** The sessions that are valid, by id: whether their users are operators. */
  readonly sessions: ReadonlyMap<string, boolean>;
  /** By {@link memberKey}. */
  readonly roles: ReadonlyMap<string, TeamRole>;
}

/**
 * Ends what takes longer than a request when its caller may no longer make it: a key or session
 * that was revoked or has expired, a member who was removed or lost a role, a team that was
 * deleted. All of a control plane's streams are checked together, on whichever control plane the access was taken away.
 */
export class AccessWatch {
  readonly #db: Kysely<Database>;
  readonly #logger: Logger;
  readonly #entries = new Set<Entry>();
  #timer: NodeJS.Timeout | undefined;

  constructor(db: Kysely<Database>, logger: Logger) {
    this.#db = db;
    this.#logger = logger;
  }

  watch(principal: Principal, needs: readonly Permission[]): WatchedAccess {
    const entry = { principal, needs, lost: new AbortController() };
    this.#entries.add(entry);
    this.#schedule();
    return {
      signal: entry.lost.signal,
      [Symbol.dispose]: () => {
        this.#entries.delete(entry);
        if (this.#entries.size === 0) clearTimeout(this.#timer);
        if (this.#entries.size === 0) this.#timer = undefined;
      },
    };
  }

  #schedule(): void {
    this.#timer ??= setTimeout(() => void this.#check(), CHECK_INTERVAL_MS).unref();
  }

  async #check(): Promise<void> {
    try {
      const entries = [...this.#entries];
      const current = await this.#read(entries.map(({ principal }) => principal));
      for (const { principal, needs, lost } of entries) {
        const reason = lossOf(principal, needs, current);
        if (reason !== undefined) lost.abort(reason);
      }
    } catch (reason) {
      const err = TorporError.from(reason);
      this.#logger.warn({ err }, 'Could not check the access of open streams; will retry');
    }
    this.#timer = undefined;
    if (this.#entries.size > 0) this.#schedule();
  }

  async #read(principals: readonly Principal[]): Promise<Current> {
    const users = principals.flatMap(({ user }) => (user === undefined ? [] : [user]));
    const keyIds = principals.flatMap(({ actor }) =>
      actor.type === 'api_key' && actor.id !== null ? [actor.id] : [],
    );
    return {
      keys: await this.#keys([...new Set(keyIds)]),
      sessions: await this.#sessions([...new Set(users.map(({ sessionId }) => sessionId))]),
      roles: await this.#roles([...new Set(users.map(({ id }) => id))]),
    };
  }

  async #keys(ids: readonly string[]): Promise<Current['keys']> {
    if (ids.length === 0) return new Map();
    const rows = await this.#db
      .selectFrom('api_keys')
      .select(['id', 'scopes'])
      .where('id', 'in', ids)
      .where(({ eb, or }) => or([eb('expires_at', 'is', null), eb('expires_at', '>', new Date())]))
      .execute();
    return new Map(rows.map(({ id, scopes }) => [id, scopes]));
  }

  async #sessions(ids: readonly string[]): Promise<Current['sessions']> {
    if (ids.length === 0) return new Map();
    const rows = await this.#db
      .selectFrom('sessions')
      .innerJoin('users', 'users.id', 'sessions.user_id')
      .select(['sessions.id', 'users.is_admin'])
      .where('sessions.id', 'in', ids)
      .where('sessions.expires_at', '>', new Date())
      .where('users.status', '=', 'active')
      .execute();
    return new Map(rows.map(({ id, is_admin }) => [id, is_admin]));
  }

  async #roles(userIds: readonly string[]): Promise<Current['roles']> {
    if (userIds.length === 0) return new Map();
    const rows = await this.#db
      .selectFrom('team_members')
      .select(['team_id', 'user_id', 'role'])
      .where('user_id', 'in', userIds)
      .execute();
    return new Map(rows.map(({ team_id, user_id, role }) => [memberKey(team_id, user_id), role]));
  }
}

/** Why the principal has no access any more; undefined if it has. */
function lossOf(
  principal: Principal,
  needs: readonly Permission[],
  current: Current,
): TorporError | undefined {
  try {
    const permissions = permissionsNow(principal, current);
    for (const need of needs) requirePermission({ ...principal, permissions }, need);
    return undefined;
  } catch (reason) {
    return TorporError.from(reason);
  }
}

/** Throws `unauthorized`. */
function permissionsNow(
  { actor, teamId, user }: Principal,
  { keys, sessions, roles }: Current,
): ReadonlySet<Permission> {
  if (user === undefined) {
    const scopes = keys.get(actor.id ?? '');
    if (scopes !== undefined) return new Set(scopes);
    throw new TorporError('unauthorized', 'The API key was revoked, or has expired.');
  }
  const isAdmin = sessions.get(user.sessionId);
  if (isAdmin === undefined) throw sessionEnded();
  const member = roles.get(memberKey(teamId, user.id));
  return permissionsOf({ role: roleIn(teamId, { member, isAdmin }), isAdmin });
}

function memberKey(teamId: string, userId: string): string {
  return `${teamId} ${userId}`;
}
