import { newId, TorporError } from '@torpor/protocol';
import type { Transaction } from 'kysely';
import { PLATFORM_TEAM_ID } from '../auth/roles.ts';
import { isDuplicate } from '../database/duplicate.ts';
import type { Database, UserRow } from '../database/schema.ts';
import { appendEvents } from '../events/outbox.ts';
import { type RecordingParts, recorded } from '../events/record.ts';
import { actorOf, defaultTeam } from '../users/accounts.ts';
import type { Provider, ProviderProfile } from './provider.ts';

interface ProvidedProfile {
  readonly provider: Provider;
  readonly profile: ProviderProfile;
}

/** Lets the user of a session log in with the provider's account too. Throws `already_exists`, `unauthorized`. */
export async function linkProfile(
  parts: RecordingParts,
  provided: ProvidedProfile,
  sessionId: string,
): Promise<void> {
  await recorded(parts, async (transaction) => {
    const user = await transaction
      .selectFrom('users')
      .innerJoin('sessions', 'sessions.user_id', 'users.id')
      .selectAll('users')
      .where('sessions.id', '=', sessionId)
      .where('sessions.expires_at', '>', new Date())
      .where('users.status', '=', 'active')
      .forShare('users')
      .executeTakeFirstOrThrow(
        () =>
          new TorporError('unauthorized', 'The session has ended.', { remedy: 'Log in again.' }),
      );
    await insertIdentity(transaction, provided, user.id);
    await appendLinkEvent(transaction, provided, user);
  }).catch((reason: unknown) => {
    if (!isDuplicate(reason)) throw reason;
    const { provider, profile } = provided;
    throw new TorporError(
      'already_exists',
      `${profile.label} at ${provider.name} is a login of an account already.`,
      { remedy: 'Remove it there first, if it is another account of yours.' },
    );
  });
}

export async function insertIdentity(
  transaction: Transaction<Database>,
  { provider, profile: { issuer, subject, label } }: ProvidedProfile,
  userId: string,
): Promise<void> {
  const id = newId('identity');
  await transaction
    .insertInto('identities')
    .values({ id, user_id: userId, provider: provider.id, issuer, subject, label })
    .execute();
}

export async function appendLinkEvent(
  transaction: Transaction<Database>,
  { provider, profile }: ProvidedProfile,
  user: UserRow,
): Promise<void> {
  await appendEvents(transaction, [
    {
      kind: 'user.link_identity',
      resource: user.id,
      teamId: (await defaultTeam(transaction, user)) ?? PLATFORM_TEAM_ID,
      actor: actorOf(user),
      status: 'success',
      metadata: { provider: provider.name, label: profile.label },
    },
  ]);
}
