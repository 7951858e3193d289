import { TorporError } from '@torpor/protocol';
import type { Transaction } from 'kysely';
import { NO_TEAM, type Principal, requireUser } from '../auth/principal.ts';
import { PLATFORM_TEAM_ID } from '../auth/roles.ts';
import { SESSION_COLUMNS, type Session } from '../auth/sessions.ts';
import type { Database, EventKind, OperationStatus } from '../database/schema.ts';
import { appendEvents } from '../events/outbox.ts';
import { type RecordingParts, recorded } from '../events/record.ts';

/** The sessions of the user of a principal. */
export class SessionService {
  readonly #parts: RecordingParts;

  constructor(parts: RecordingParts) {
    this.#parts = parts;
  }

  /** Newest first. */
  list(principal: Principal): Promise<Session[]> {
    return this.#parts.db
      .selectFrom('sessions')
      .select(SESSION_COLUMNS)
      .where('user_id', '=', requireUser(principal).id)
      .where('expires_at', '>', new Date())
      .orderBy('created_at', 'desc')
      .orderBy('id')
      .execute();
  }

  /** Ends the session of the principal. */
  async logout(principal: Principal): Promise<void> {
    await this.#end(principal, requireUser(principal).sessionId, 'user.logout');
  }

  /** Ends a session of the user: it is refused from the next request on. Throws `not_found`. */
  async revoke(principal: Principal, id: string): Promise<void> {
    await this.#end(principal, id, 'session.revoke');
  }

  /** Makes the team of the principal that in which the session's requests act. */
  async switchTeam(principal: Principal): Promise<void> {
    const { sessionId } = requireUser(principal);
    await this.#parts.db
      .updateTable('sessions')
      .set({ team_id: principal.teamId })
      .where('id', '=', sessionId)
      .execute();
  }

  async #end(principal: Principal, id: string, kind: EventKind): Promise<void> {
    const user = requireUser(principal);
    await recorded(this.#parts, async (transaction) => {
      await transaction
        .deleteFrom('sessions')
        .where('id', '=', id)
        .where('user_id', '=', user.id)
        .returning('id')
        .executeTakeFirstOrThrow(
          () => new TorporError('not_found', 'You have no session with this id.'),
        );
      await appendUserEvent(transaction, kind, principal, { session: id });
    });
  }
}

/** An event about the user of the principal. */
export async function appendUserEvent(
  transaction: Transaction<Database>,
  kind: EventKind,
  principal: Principal,
  metadata: Readonly<Record<string, string>> = {},
  status: OperationStatus = 'success',
): Promise<void> {
  const { id } = requireUser(principal);
  await appendEvents(transaction, [
    {
      kind,
      resource: id,
      teamId: recordingTeam(principal),
      actor: principal.actor,
      status,
      metadata,
    },
  ]);
}

/** In whose audit log the principal's changes of accounts are. */
export function recordingTeam({ teamId }: Principal): string {
  return teamId === NO_TEAM ? PLATFORM_TEAM_ID : teamId;
}
