import { TorporError } from '@torpor/protocol';
import type { Selectable } from 'kysely';
import { type Principal, requireUser } from '../auth/principal.ts';
import type { IdentityTable } from '../database/schema.ts';
import { type RecordingParts, recorded } from '../events/record.ts';
import { appendUserEvent } from '../users/sessions.ts';

export type Identity = Selectable<IdentityTable>;

/** The logins of other services with which a user can log in. */
export class IdentityService {
  readonly #parts: RecordingParts;

  constructor(parts: RecordingParts) {
    this.#parts = parts;
  }

  /** Oldest first. */
  list(principal: Principal): Promise<Identity[]> {
    return this.#parts.db
      .selectFrom('identities')
      .selectAll()
      .where('user_id', '=', requireUser(principal).id)
      .orderBy('created_at')
      .orderBy('id')
      .execute();
  }

  /** Throws `not_found`; `conflict` if the user could not log in any more. */
  async unlink(principal: Principal, id: string): Promise<void> {
    const { id: userId } = requireUser(principal);
    await recorded(this.#parts, async (transaction) => {
      const user = await transaction
        .selectFrom('users')
        .select('password_hash')
        .where('id', '=', userId)
        .forUpdate()
        .executeTakeFirstOrThrow();
      const removed = await transaction
        .deleteFrom('identities')
        .where('id', '=', id)
        .where('user_id', '=', userId)
        .returning(['provider', 'label'])
        .executeTakeFirstOrThrow(
          () => new TorporError('not_found', 'You have no login with this id.'),
        );
      const other = await transaction
        .selectFrom('identities')
        .select('id')
        .where('user_id', '=', userId)
        .executeTakeFirst();
      if (user.password_hash === null && other === undefined) {
        throw new TorporError('conflict', 'It is the only way to log in to your account.', {
          remedy: 'Set a password first.',
        });
      }
      await appendUserEvent(transaction, 'user.unlink_identity', principal, removed);
    });
  }
}
