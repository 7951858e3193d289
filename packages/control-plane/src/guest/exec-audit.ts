import type { Kysely } from 'kysely';
import type { Principal } from '../auth/principal.ts';
import type { ExecAuditLevel } from '../config/index.ts';
import type { Database } from '../database/schema.ts';
import { insertAuditEntry } from '../events/audit.ts';
import type { Program } from './program.ts';

/** How a program is started: `terminal` on a PTY. */
export type ExecKind = 'foreground' | 'background' | 'stream' | 'terminal';

/** Of the arguments, in characters of JSON. */
const MAX_ARGS_LENGTH = 4096;

/**
 * Records who starts programs in sandboxes. The entry is written before the agent is called, so
 * nothing runs that is not recorded; what becomes of it is not.
 */
export class ExecAudit {
  readonly #db: Kysely<Database>;
  readonly #level: ExecAuditLevel;

  constructor(db: Kysely<Database>, level: ExecAuditLevel) {
    this.#db = db;
    this.#level = level;
  }

  async record(
    principal: Principal,
    sandboxId: string,
    kind: ExecKind,
    program: Program,
  ): Promise<void> {
    if (this.#level === 'off') return;
    const { cmd, args, user } = program;
    await insertAuditEntry(this.#db, principal, {
      resourceType: 'sandbox',
      resourceId: sandboxId,
      action: 'exec',
      metadata: {
        kind,
        cmd,
        ...(user === undefined ? {} : { user }),
        ...(this.#level === 'command'
          ? { args: JSON.stringify(args).slice(0, MAX_ARGS_LENGTH).toWellFormed() }
          : {}),
      },
    });
  }
}
