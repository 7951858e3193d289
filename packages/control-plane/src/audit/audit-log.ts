import { newId } from '@torpor/protocol';
import type { Kysely } from 'kysely';
import type { Principal } from '../auth/api-keys.ts';
import type { AuditStatus, Database } from '../database/schema.ts';

export interface AuditEntry {
  readonly teamId: string;
  /** Absent: the system did it by itself. */
  readonly actor?: Principal;
  readonly action: 'create' | 'destroy' | 'adopt';
  readonly sandboxId: string;
  readonly status: AuditStatus;
  /** Facts that help a reader later; never values of environment variables or keys. */
  readonly metadata?: Record<string, string>;
}

/** Who did what to which sandbox, and whether it worked. */
export class AuditLog {
  readonly #db: Kysely<Database>;

  constructor(db: Kysely<Database>) {
    this.#db = db;
  }

  async record(entry: AuditEntry): Promise<void> {
    await this.#db
      .insertInto('audit_logs')
      .values({
        id: newId('audit'),
        team_id: entry.teamId,
        actor_type: entry.actor === undefined ? 'system' : 'api_key',
        actor_id: entry.actor?.apiKeyId ?? null,
        resource_type: 'sandbox',
        resource_id: entry.sandboxId,
        action: entry.action,
        status: entry.status,
        metadata: JSON.stringify(entry.metadata ?? {}),
      })
      .execute();
  }
}
