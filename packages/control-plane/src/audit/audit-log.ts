import { newId } from '@torpor/protocol';
import type { Kysely } from 'kysely';
import type { Principal } from '../auth/api-keys.ts';
import type { AuditStatus, Database } from '../database/schema.ts';

interface Deed {
  readonly teamId: string;
  /** Absent: the system did it by itself. */
  readonly actor?: Principal;
  readonly status: AuditStatus;
  /** Facts that help a reader later; never values of environment variables or keys. */
  readonly metadata?: Record<string, string>;
}

export interface SandboxDeed extends Deed {
  readonly action: 'create' | 'destroy' | 'adopt' | 'pause' | 'resume' | 'fork';
  readonly sandboxId: string;
}

export interface SnapshotDeed extends Deed {
  readonly action: 'create' | 'delete';
  /** Its name. */
  readonly snapshot: string;
}

export type AuditEntry = SandboxDeed | SnapshotDeed;

/** Who did what to which sandbox or snapshot, and whether it worked. */
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
        ...('snapshot' in entry
          ? { resource_type: 'snapshot', resource_id: entry.snapshot }
          : { resource_type: 'sandbox', resource_id: entry.sandboxId }),
        action: entry.action,
        status: entry.status,
        metadata: JSON.stringify(entry.metadata ?? {}),
      })
      .execute();
  }
}
