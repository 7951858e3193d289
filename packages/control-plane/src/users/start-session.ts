import { TorporError } from '@torpor/protocol';
import type { Transaction } from 'kysely';
import { PLATFORM_TEAM_ID } from '../auth/roles.ts';
import { type Client, insertSession, type StartedSession } from '../auth/sessions.ts';
import type { Database, EventKind, UserRow } from '../database/schema.ts';
import { appendEvents } from '../events/outbox.ts';
import { actorOf, defaultTeam, type LoggedIn, userOf } from './accounts.ts';

type Metadata = Readonly<Record<string, string>>;

/** Begins the session of a user who has proved who it is. The row is locked. Throws `forbidden` for one that is disabled. */
export async function startSession(
  transaction: Transaction<Database>,
  row: UserRow,
  client: Client,
  metadata: Metadata = {},
): Promise<LoggedIn> {
  if (row.status !== 'active') {
    throw new TorporError('forbidden', 'This account is disabled.', {
      remedy: 'Ask the operator of the platform.',
    });
  }
  const teamId = await defaultTeam(transaction, row);
  const started = await insertSession(transaction, row.id, teamId, client);
  const address = client.address === undefined ? {} : { address: client.address };
  await append(transaction, 'user.login', row, started, { ...address, ...metadata });
  return { ...started, user: userOf(row) };
}

/** Begins the first session of a user, in its first team. */
export async function startFirstSession(
  transaction: Transaction<Database>,
  row: UserRow,
  teamId: string,
  client: Client,
  metadata: Metadata = {},
): Promise<LoggedIn> {
  const started = await insertSession(transaction, row.id, teamId, client);
  await append(transaction, 'user.create', row, started, { email: row.email, ...metadata });
  return { ...started, user: userOf(row) };
}

function append(
  transaction: Transaction<Database>,
  kind: EventKind,
  row: UserRow,
  { session }: StartedSession,
  metadata: Metadata,
): Promise<void> {
  return appendEvents(transaction, [
    {
      kind,
      resource: row.id,
      teamId: session.team_id ?? PLATFORM_TEAM_ID,
      actor: actorOf(row),
      status: 'success',
      metadata: { session: session.id, ...metadata },
    },
  ]);
}
