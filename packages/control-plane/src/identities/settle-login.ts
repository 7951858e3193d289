import { TorporError } from '@torpor/protocol';
import type { Transaction } from 'kysely';
import type { Client } from '../auth/sessions.ts';
import { isDuplicate } from '../database/duplicate.ts';
import type { Database, UserRow } from '../database/schema.ts';
import { recorded } from '../events/record.ts';
import { claimInvitation } from '../teams/invitations.ts';
import { insertMember } from '../teams/membership.ts';
import { actorOf, type LoggedIn } from '../users/accounts.ts';
import { byInvitationOnly, insertUser, joinFirstTeam } from '../users/sign-up.ts';
import { startFirstSession, startSession } from '../users/start-session.ts';
import { appendLinkEvent, insertIdentity } from './link-profile.ts';
import type { Provider, ProviderProfile } from './provider.ts';
import type { ProviderLoginParts } from './provider-login-parts.ts';

export interface ConfirmedLogin {
  readonly provider: Provider;
  readonly profile: ProviderProfile;
  readonly invitation: string | undefined;
  readonly client: Client;
}

const MAX_NAME_LENGTH = 100;

/**
 * Begins a session of the user to whom the provider's account belongs, whom its issuer and subject
 * name. An account that has none here yet gets one, if its email address is verified and may
 * sign up. An email address alone never gives access to an account that somebody uses.
 */
export async function settleLogin(
  parts: ProviderLoginParts,
  login: ConfirmedLogin,
): Promise<LoggedIn> {
  return recorded(parts, async (transaction) => {
    const known = await findUser(transaction, login.profile);
    if (known !== undefined) return resume(transaction, login, known);
    const { email } = login.profile;
    if (email === undefined) throw notVerified(login.provider);
    const sameEmail = await transaction
      .selectFrom('users')
      .selectAll()
      .where('email', '=', email)
      .forUpdate()
      .executeTakeFirst();
    if (sameEmail !== undefined) return adopt(transaction, login, sameEmail);
    return signUp(transaction, parts, login, email);
  }).catch((reason: unknown) => {
    if (!isDuplicate(reason)) throw reason;
    throw new TorporError('conflict', 'The account was used by another login in the meantime.', {
      remedy: 'Log in again.',
    });
  });
}

async function findUser(
  transaction: Transaction<Database>,
  { issuer, subject, label }: ProviderProfile,
): Promise<UserRow | undefined> {
  const identity = await transaction
    .updateTable('identities')
    .set({ label, last_used_at: new Date() })
    .where('issuer', '=', issuer)
    .where('subject', '=', subject)
    .returning('user_id')
    .executeTakeFirst();
  if (identity === undefined) return undefined;
  return transaction
    .selectFrom('users')
    .selectAll()
    .where('id', '=', identity.user_id)
    .forShare()
    .executeTakeFirst();
}

/** Joins the team of the invitation too. */
async function resume(
  transaction: Transaction<Database>,
  { provider, invitation, client }: ConfirmedLogin,
  user: UserRow,
): Promise<LoggedIn> {
  if (invitation !== undefined) {
    const claimed = await claimInvitation(transaction, invitation, user.email);
    const { id: invitationId, team_id: teamId, role } = claimed;
    const actor = actorOf(user);
    await insertMember(transaction, { teamId, userId: user.id, role, actor, invitationId });
  }
  return startSession(transaction, user, client, { provider: provider.id });
}

/**
 * An account that an operator has made for the address, and that nobody has used: it has no
 * password, no other login, and no rights on the platform.
 */
async function adopt(
  transaction: Transaction<Database>,
  login: ConfirmedLogin,
  user: UserRow,
): Promise<LoggedIn> {
  const identity = await transaction
    .selectFrom('identities')
    .select('id')
    .where('user_id', '=', user.id)
    .executeTakeFirst();
  if (user.password_hash !== null || user.is_admin || identity !== undefined) {
    throw new TorporError('conflict', 'There is an account with this email address.', {
      remedy: `Log in to it as before; then it can be logged in to with ${login.provider.name} too.`,
    });
  }
  await transaction.deleteFrom('password_links').where('user_id', '=', user.id).execute();
  await insertIdentity(transaction, login, user.id);
  await appendLinkEvent(transaction, login, user);
  return resume(transaction, login, user);
}

async function signUp(
  transaction: Transaction<Database>,
  { signUpOpen, signUpDomains }: ProviderLoginParts,
  login: ConfirmedLogin,
  email: string,
): Promise<LoggedIn> {
  const { profile, invitation, client, provider } = login;
  const domain = email.slice(email.lastIndexOf('@') + 1);
  const isAllowed = signUpOpen || signUpDomains.includes(domain) || invitation !== undefined;
  if (!isAllowed) throw byInvitationOnly();
  const row = await insertUser(transaction, {
    email,
    name: nameOf(profile, email),
    passwordHash: null,
    isAdmin: false,
  });
  const teamId = await joinFirstTeam(transaction, row, invitation);
  await insertIdentity(transaction, login, row.id);
  return startFirstSession(transaction, row, teamId, client, { provider: provider.id });
}

/** Of the characters that a name may have here; the address if none of them is visible. */
function nameOf({ name, label }: ProviderProfile, email: string): string {
  const allowed = (name ?? label).replaceAll(/[\p{Cc}\p{Cs}\u2028-\u202e\u2066-\u2069]+/gu, ' ');
  const cleaned = [...allowed.trim()].slice(0, MAX_NAME_LENGTH).join('');
  return /[^\p{Z}\p{C}]/u.test(cleaned) ? cleaned : email.slice(0, MAX_NAME_LENGTH);
}

function notVerified({ name }: Provider): TorporError {
  return new TorporError('forbidden', `${name} has not verified an email address of yours.`, {
    remedy: 'Verify your primary address there, and log in again.',
  });
}
