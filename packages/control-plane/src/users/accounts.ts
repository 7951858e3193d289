import type { Kysely, Selectable } from 'kysely';
import type { Logger } from 'pino';
import { type AttemptLimit, type AttemptLimiter, clientNetwork } from '../auth/attempts.ts';
import type { Actor } from '../auth/principal.ts';
import { PLATFORM_TEAM_ID } from '../auth/roles.ts';
import type { Client, StartedSession } from '../auth/sessions.ts';
import type { Database, UserTable } from '../database/schema.ts';
import type { RecordingParts } from '../events/record.ts';

/** What the services of users are made of. */
export interface AccountParts extends RecordingParts {
  readonly limiter: AttemptLimiter;
  /** Whether everyone may sign up, and not only those who are invited. */
  readonly signUpOpen: boolean;
  /** How many teams a user may own, who is no operator. */
  readonly teamsPerUser: number;
  readonly logger: Logger;
}

/** A user without the hash of the password. */
export type User = Omit<Selectable<UserTable>, 'password_hash' | 'updated_at'> & {
  readonly has_password: boolean;
};

export interface LoggedIn extends StartedSession {
  readonly user: User;
}

/** Without it the row would leave the services with its hash. */
export function userOf({ password_hash, updated_at: _, ...row }: Selectable<UserTable>): User {
  return { ...row, has_password: password_hash !== null };
}

export function actorOf({ id, name }: Pick<User, 'id' | 'name'>): Actor {
  return { type: 'user', id, name };
}

/** Requests of one client that make the server compute hashes or look for secrets. */
const CLIENT_LIMIT: AttemptLimit = { name: 'client', attempts: 100, windowMs: 3_600_000 };

export function clientAttempt({ address = 'unknown' }: Client) {
  return { limit: CLIENT_LIMIT, subject: clientNetwork(address) };
}

/** The team of a new session: the first one that the user joined; that of the platform for its admins who are in none. */
export async function defaultTeam(
  db: Kysely<Database>,
  { id, is_admin }: Pick<User, 'id' | 'is_admin'>,
): Promise<string | null> {
  const first = await db
    .selectFrom('team_members')
    .select('team_id')
    .where('user_id', '=', id)
    .orderBy('created_at')
    .orderBy('team_id')
    .executeTakeFirst();
  return first?.team_id ?? (is_admin ? PLATFORM_TEAM_ID : null);
}
