import { newId, TorporError } from '@torpor/protocol';
import type { Kysely, Selectable, Transaction } from 'kysely';
import type { AttemptLimit, AttemptLimiter } from '../auth/attempts.ts';
import { type Principal, requireUser } from '../auth/principal.ts';
import { PLATFORM_TEAM_ID } from '../auth/roles.ts';
import { hashToken, newToken } from '../auth/tokens.ts';
import type { Database, EventKind, InvitationTable, TeamRole } from '../database/schema.ts';
import { appendEvents } from '../events/outbox.ts';
import { type RecordingParts, recorded } from '../events/record.ts';
import type { MailQueue } from '../mail/queue.ts';
import { insertMember, lockPermission, lockTeamReference } from './membership.ts';

const LIFETIME_MS = 7 * 24 * 3_600_000;
/** To addresses that the team chooses, so that it cannot send mail to everyone. */
const MAILS_OF_A_TEAM: AttemptLimit = {
  name: 'invitation-mail',
  attempts: 50,
  windowMs: 24 * 3_600_000,
};

/** An invitation without the hash of its token. */
export type Invitation = Omit<Selectable<InvitationTable>, 'token_hash'>;

export interface InvitationRequest {
  readonly role: Exclude<TeamRole, 'owner'>;
  /** The only account that may accept it. */
  readonly email?: string | undefined;
}

const COLUMNS = [
  'id',
  'team_id',
  'role',
  'email',
  'created_by',
  'user_id',
  'created_at',
  'expires_at',
] as const satisfies readonly (keyof Invitation)[];

export interface InvitationParts extends RecordingParts {
  readonly limiter: AttemptLimiter;
  readonly mail: MailQueue;
}

export interface CreatedInvitation {
  readonly invitation: Invitation;
  /** The only time that it can be seen. */
  readonly token: string;
  /** Whether it is sent to its email address. */
  readonly isMailed: boolean;
}

/** Links with which somebody joins a team, once. */
export class InvitationService {
  readonly #parts: InvitationParts;

  constructor(parts: InvitationParts) {
    this.#parts = parts;
  }

  /** It is mailed to its address if the server sends mail, and the team has not sent too much. */
  async create(
    principal: Principal,
    { role, email }: InvitationRequest,
  ): Promise<CreatedInvitation> {
    if (principal.teamId === PLATFORM_TEAM_ID) {
      throw new TorporError('forbidden', 'Nobody can be invited to the team of the platform.', {
        remedy: 'Make a user an operator of the platform instead.',
      });
    }
    const token = newToken('invitation');
    const isMailed = email !== undefined && (await this.#mayMail(principal));
    const invitation = await recorded(this.#parts, async (transaction) => {
      await lockPermission(transaction, principal, 'team.write');
      const row = await transaction
        .insertInto('invitations')
        .values({
          id: newId('invitation'),
          token_hash: hashToken(token),
          team_id: principal.teamId,
          role,
          email: email ?? null,
          created_by: principal.actor.id,
          user_id: principal.onBehalfOf ?? null,
          expires_at: new Date(Date.now() + LIFETIME_MS),
        })
        .returning(COLUMNS)
        .executeTakeFirstOrThrow();
      await appendInvitationEvent(transaction, 'invitation.create', principal, row);
      if (isMailed) await this.#mail(transaction, principal, row, token);
      return row;
    });
    return { invitation, token, isMailed };
  }

  /** Those of the team that can still be accepted, newest first. */
  list({ teamId }: Principal): Promise<Invitation[]> {
    return this.#parts.db
      .selectFrom('invitations')
      .select(COLUMNS)
      .where('team_id', '=', teamId)
      .where('expires_at', '>', new Date())
      .orderBy('created_at', 'desc')
      .orderBy('id')
      .execute();
  }

  /** Throws `not_found`. */
  async revoke(principal: Principal, id: string): Promise<void> {
    await recorded(this.#parts, async (transaction) => {
      const row = await transaction
        .deleteFrom('invitations')
        .where('id', '=', id)
        .where('team_id', '=', principal.teamId)
        .returning(COLUMNS)
        .executeTakeFirstOrThrow(
          () => new TorporError('not_found', 'The team has no invitation with this id.'),
        );
      await appendInvitationEvent(transaction, 'invitation.revoke', principal, row);
    });
  }

  /** What somebody who has the token may know. Throws `not_found`. */
  async preview(token: string): Promise<Invitation & { readonly team_name: string }> {
    const { db } = this.#parts;
    const invitation = await findValid(db, token);
    const { name } = await db
      .selectFrom('teams')
      .select('name')
      .where('id', '=', invitation.team_id)
      .executeTakeFirstOrThrow(invalidInvitation);
    return { ...invitation, team_name: name };
  }

  /** The user of the principal joins the team, whose id is returned. Throws `not_found`, `forbidden`, `already_exists`. */
  async accept(principal: Principal, token: string): Promise<string> {
    const { id: userId, sessionId } = requireUser(principal);
    return recorded(this.#parts, async (transaction) => {
      const { email } = await transaction
        .selectFrom('users')
        .select('email')
        .where('id', '=', userId)
        .executeTakeFirstOrThrow();
      const { id, team_id: teamId, role } = await claimInvitation(transaction, token, email);
      const { actor } = principal;
      await insertMember(transaction, { teamId, userId, role, actor, invitationId: id });
      await transaction
        .updateTable('sessions')
        .set({ team_id: teamId })
        .where('id', '=', sessionId)
        .where('team_id', 'is', null)
        .execute();
      return teamId;
    });
  }

  async #mayMail({ teamId }: Principal): Promise<boolean> {
    const { limiter, mail } = this.#parts;
    if (!mail.isEnabled) return false;
    return (await limiter.count([{ limit: MAILS_OF_A_TEAM, subject: teamId }])) === undefined;
  }

  async #mail(
    transaction: Transaction<Database>,
    { teamId, actor }: Principal,
    { email, expires_at }: Invitation,
    token: string,
  ): Promise<void> {
    const { mail } = this.#parts;
    if (email === null) return;
    const { name: team } = await transaction
      .selectFrom('teams')
      .select('name')
      .where('id', '=', teamId)
      .executeTakeFirstOrThrow();
    await mail.add(transaction, email, {
      kind: 'invitation',
      team,
      inviter: actor.type === 'user' ? (actor.name ?? undefined) : undefined,
      link: mail.link('join', token),
      expiresAt: expires_at.toISOString(),
    });
  }
}

/**
 * Uses up an invitation: of several that do so at once, one gets it. Throws `not_found`,
 * `forbidden` if it is for another email address.
 */
export async function claimInvitation(
  transaction: Transaction<Database>,
  token: string,
  email: string,
): Promise<Invitation> {
  const { team_id: teamId } = await findValid(transaction, token);
  await lockTeamReference(transaction, teamId);
  const invitation = await transaction
    .deleteFrom('invitations')
    .where('token_hash', '=', hashToken(token))
    .where('expires_at', '>', new Date())
    .returning(COLUMNS)
    .executeTakeFirstOrThrow(invalidInvitation);
  if (invitation.email !== null && invitation.email !== email) {
    throw new TorporError('forbidden', 'The invitation is for another email address.', {
      remedy: 'Use the account that was invited, or ask for an invitation of your own.',
    });
  }
  return invitation;
}

/** Throws `not_found`. */
export function findValid(db: Kysely<Database>, token: string): Promise<Invitation> {
  return db
    .selectFrom('invitations')
    .select(COLUMNS)
    .where('token_hash', '=', hashToken(token))
    .where('expires_at', '>', new Date())
    .executeTakeFirstOrThrow(invalidInvitation);
}

async function appendInvitationEvent(
  transaction: Transaction<Database>,
  kind: EventKind,
  { teamId, actor }: Principal,
  { id, role, email }: Invitation,
): Promise<void> {
  const metadata = { role, ...(email === null ? {} : { email }) };
  await appendEvents(transaction, [
    { kind, resource: id, teamId, actor, status: 'success', metadata },
  ]);
}

function invalidInvitation(): TorporError {
  return new TorporError('not_found', 'The invitation was used or revoked, or has expired.', {
    remedy: 'Ask for another one.',
  });
}
