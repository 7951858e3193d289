import * as rest from '@torpor/protocol/rest';
import type { Connection } from './http/connection.ts';

export interface AuditLogOptions {
  readonly resourceType?: string | undefined;
  readonly resourceId?: string | undefined;
  readonly action?: string | undefined;
  readonly actorType?: rest.AuditEntry['actor_type'] | undefined;
  readonly actorId?: string | undefined;
  readonly status?: rest.AuditEntry['status'] | undefined;
  /** The entries of all teams, for callers with the permission `platform`. */
  readonly allTeams?: boolean | undefined;
  /** Only entries of this time and later. */
  readonly since?: Date | undefined;
  /** Only entries of earlier times. */
  readonly before?: Date | undefined;
  readonly signal?: AbortSignal | undefined;
}

const PAGE_SIZE = 200;

/** Who did what to which resource of the team, and whether it worked. */
export class AuditLog {
  readonly #connection: Connection;

  constructor(connection: Connection) {
    this.#connection = connection;
  }

  /** All entries that the options let through, newest first; read page by page as they are consumed. */
  async *list(options: AuditLogOptions = {}): AsyncGenerator<rest.AuditEntry, void> {
    let before = options.before?.toISOString();
    let beforeId: string | undefined;
    for (;;) {
      const page = await this.#connection.json('GET', '/v1/audit-logs', rest.auditPageSchema, {
        query: {
          limit: String(PAGE_SIZE),
          resource_type: options.resourceType,
          resource_id: options.resourceId,
          action: options.action,
          actor_type: options.actorType,
          actor_id: options.actorId,
          status: options.status,
          all_teams: options.allTeams ? 'true' : undefined,
          since: options.since?.toISOString(),
          before,
          before_id: beforeId,
        },
        signal: options.signal,
      });
      yield* page.items;
      if (page.next_before === undefined) return;
      before = page.next_before;
      beforeId = page.next_before_id;
    }
  }
}
