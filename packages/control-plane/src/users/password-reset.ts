import { TorporError } from '@torpor/protocol';
import type { AttemptLimit } from '../auth/attempts.ts';
import { SYSTEM } from '../auth/principal.ts';
import { PLATFORM_TEAM_ID } from '../auth/roles.ts';
import type { Client } from '../auth/sessions.ts';
import { appendEvents } from '../events/outbox.ts';
import { recorded } from '../events/record.ts';
import type { MailQueue } from '../mail/queue.ts';
import { type AccountParts, clientAttempt, defaultTeam } from './accounts.ts';
import { insertLink } from './password-links.ts';

const LINK_LIFETIME_MS = 3_600_000;
const MAILS_TO_ONE_ADDRESS: AttemptLimit = {
  name: 'password-reset',
  attempts: 3,
  windowMs: 3_600_000,
};

interface Parts extends AccountParts {
  readonly mail: MailQueue;
}

/** Sends links that set a password to those who ask for one. */
export class PasswordResets {
  readonly #parts: Parts;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  get isPossible(): boolean {
    return this.#parts.mail.isEnabled;
  }

  /**
   * Queues a mail. Whether there is an account is found out when it is sent, so that it can be
   * told neither from the response nor from its time. Throws `not_implemented` without a mail
   * server, `rate_limited`.
   */
  async request(email: string, client: Client): Promise<void> {
    const { db, limiter, mail } = this.#parts;
    if (!mail.isEnabled) {
      throw new TorporError('not_implemented', 'This server sends no mail.', {
        remedy: 'An operator of the platform can make a link that sets a new password.',
      });
    }
    await limiter.take([clientAttempt(client)]);
    // Those that were sent say what there is to say.
    const refusal = await limiter.count([{ limit: MAILS_TO_ONE_ADDRESS, subject: email }]);
    if (refusal === undefined) await mail.add(db, email, { kind: 'password_reset' });
  }

  /** The token of a new link for the account with this address; undefined if there is none. */
  async createToken(email: string): Promise<string | undefined> {
    return recorded(this.#parts, async (transaction) => {
      const user = await transaction
        .selectFrom('users')
        .select(['id', 'is_admin'])
        .where('email', '=', email)
        .where('status', '=', 'active')
        .forShare()
        .executeTakeFirst();
      if (user === undefined) return undefined;
      const teamId = (await defaultTeam(transaction, user)) ?? PLATFORM_TEAM_ID;
      const { token } = await insertLink(transaction, user.id, LINK_LIFETIME_MS);
      await appendEvents(transaction, [
        {
          kind: 'user.create_link',
          resource: user.id,
          teamId,
          actor: SYSTEM,
          status: 'success',
          metadata: { by: 'mail' },
        },
      ]);
      return token;
    });
  }
}
