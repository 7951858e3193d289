import { type Kysely, type Selectable, sql } from 'kysely';
import { type Principal, requirePermission } from '../auth/principal.ts';
import { isOlder, removeRows } from '../database/remove-rows.ts';
import type {
  ActorType,
  AuditLogTable,
  AuditScope,
  Database,
  OperationStatus,
} from '../database/schema.ts';
import { readsAdminScope } from './scope.ts';

export type AuditEntry = Selectable<AuditLogTable>;

export interface AuditFilter {
  readonly resourceType?: string | undefined;
  readonly resourceId?: string | undefined;
  readonly action?: string | undefined;
  readonly actorType?: ActorType | undefined;
  readonly actorId?: string | undefined;
  readonly status?: OperationStatus | undefined;
  readonly scope?: AuditScope | undefined;
  /** Only entries of this time and later. */
  readonly since?: Date | undefined;
  /** Only entries that are older: of an earlier time, or of the same time with a smaller id. */
  readonly before?: { readonly createdAt: Date; readonly id?: string | undefined } | undefined;
  /** Of all teams, and not only of that of the principal. */
  readonly allTeams?: boolean | undefined;
  readonly limit: number;
}

export interface AuditPage {
  /** Newest first. */
  readonly entries: readonly AuditEntry[];
  /** Whether there are older ones. */
  readonly more: boolean;
}

/** Removes entries that are older; returns how many. */
export function removeAuditEntries(db: Kysely<Database>, keepMs: number): Promise<number> {
  return removeRows(db, 'audit_logs', isOlder('created_at', keepMs));
}

/** Reads what {@link recordInAuditLog} has written. */
export class AuditLog {
  readonly #db: Kysely<Database>;

  constructor(db: Kysely<Database>) {
    this.#db = db;
  }

  /**
   * The entries that the principal may see and the filter lets through, of its team. Throws
   * `forbidden` for those of all teams if the principal does not operate the platform.
   */
  async list(principal: Principal, filter: AuditFilter): Promise<AuditPage> {
    const { resourceType, resourceId, action, actorType, actorId, status, since, before } = filter;
    const { allTeams = false } = filter;
    if (allTeams) requirePermission(principal, 'platform');
    const equal = {
      team_id: allTeams ? undefined : principal.teamId,
      resource_type: resourceType,
      resource_id: resourceId,
      action,
      actor_type: actorType,
      actor_id: actorId,
      status,
      scope: filter.scope,
    } as const;
    let query = this.#db.selectFrom('audit_logs').selectAll();
    if (!allTeams && !readsAdminScope(principal)) query = query.where('scope', '=', 'team');
    for (const column of Object.keys(equal) as (keyof typeof equal)[]) {
      const value = equal[column];
      if (value !== undefined) query = query.where(column, '=', value);
    }
    if (since !== undefined) query = query.where('created_at', '>=', since);
    if (before !== undefined) {
      const { createdAt, id = '' } = before;
      query = query.where(
        sql<boolean>`(created_at, id) < (${createdAt}::timestamptz, ${id}::text)`,
      );
    }
    const found = await query
      .orderBy('created_at', 'desc')
      .orderBy('id', 'desc')
      .limit(filter.limit + 1)
      .execute();
    return { entries: found.slice(0, filter.limit), more: found.length > filter.limit };
  }
}
