import { newId, TorporError } from '@torpor/protocol';
import type { Transaction } from 'kysely';
import { hashPassword } from '../auth/passwords.ts';
import type { Client } from '../auth/sessions.ts';
import { isDuplicate } from '../database/duplicate.ts';
import type { Database, UserRow } from '../database/schema.ts';
import { recorded } from '../events/record.ts';
import { claimInvitation, findValid } from '../teams/invitations.ts';
import { insertMember, insertTeam } from '../teams/membership.ts';
import { type AccountParts, actorOf, clientAttempt, type LoggedIn } from './accounts.ts';
import { startFirstSession } from './start-session.ts';

export interface SignUpRequest {
  readonly email: string;
  readonly password: string;
  readonly name: string;
  /** The token of an invitation. */
  readonly invitation?: string | undefined;
}

/** Makes accounts for those who ask for them. */
export class SignUpService {
  readonly #parts: AccountParts;

  constructor(parts: AccountParts) {
    this.#parts = parts;
  }

  /**
   * Makes an account, in the team of the invitation or in a team of its own, and begins a
   * session. Throws `forbidden` if only those who are invited may sign up, `not_found` for an
   * invitation that is not valid, `already_exists`, `rate_limited`.
   */
  async signUp(request: SignUpRequest, client: Client): Promise<LoggedIn> {
    const { db, limiter, signUpOpen } = this.#parts;
    await limiter.take([clientAttempt(client)]);
    // Before the hash, which costs more than a query.
    if (request.invitation !== undefined) await findValid(db, request.invitation);
    else if (!signUpOpen) throw byInvitationOnly();
    const passwordHash = await hashPassword(request.password);
    return recorded(this.#parts, async (transaction) => {
      const row = await insertUser(transaction, { ...request, passwordHash, isAdmin: false });
      const teamId = await joinFirstTeam(transaction, row, request.invitation);
      return startFirstSession(transaction, row, teamId, client);
    }).catch((reason: unknown) => {
      throw isDuplicate(reason) ? emailTaken() : reason;
    });
  }
}

export interface NewUser {
  readonly email: string;
  readonly name: string;
  readonly passwordHash: string | null;
  readonly isAdmin: boolean;
}

/** The caller records it. */
export function insertUser(
  transaction: Transaction<Database>,
  { email, name, passwordHash, isAdmin }: NewUser,
): Promise<UserRow> {
  return transaction
    .insertInto('users')
    .values({
      id: newId('user'),
      email,
      name,
      password_hash: passwordHash,
      is_admin: isAdmin,
    })
    .returningAll()
    .executeTakeFirstOrThrow();
}

/** Returns the id of the team. */
export async function joinFirstTeam(
  transaction: Transaction<Database>,
  user: UserRow,
  invitationToken: string | undefined,
): Promise<string> {
  const actor = actorOf(user);
  if (invitationToken === undefined) {
    return (await insertOwnTeam(transaction, user)).id;
  }
  const invitation = await claimInvitation(transaction, invitationToken, user.email);
  const { id: invitationId, team_id: teamId, role } = invitation;
  await insertMember(transaction, { teamId, userId: user.id, role, actor, invitationId });
  return teamId;
}

/** The team of a user who is in no other. */
export function insertOwnTeam(transaction: Transaction<Database>, user: UserRow) {
  const name = `${user.name}'s team`;
  return insertTeam(transaction, { name, ownerId: user.id, actor: actorOf(user) });
}

export function emailTaken(): TorporError {
  return new TorporError('already_exists', 'There is an account with this email address.', {
    remedy: 'Log in to it; then an invitation can be accepted too.',
  });
}

export function byInvitationOnly(): TorporError {
  return new TorporError('forbidden', 'Only those who are invited can sign up here.', {
    remedy: 'Ask an admin of a team for an invitation, or the operator for the setting sign_up.',
  });
}
