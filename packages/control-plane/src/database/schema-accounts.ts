import type { Generated, GeneratedAlways } from 'kysely';
import type { DefaultedTime } from './columns.ts';

export interface TeamTable {
  id: string;
  name: string;
  created_at: DefaultedTime;
}

export type TeamRole = 'owner' | 'admin' | 'member';

export type UserStatus = 'active' | 'disabled';

export interface UserTable {
  id: string;
  /** In lower case; unique. */
  email: string;
  name: string;
  /** See auth/passwords.ts; null for an account without a password. */
  password_hash: string | null;
  /** Whether the user operates the platform. */
  is_admin: Generated<boolean>;
  status: Generated<UserStatus>;
  created_at: DefaultedTime;
  updated_at: DefaultedTime;
}

/** Of each team at most one is the owner. */
export interface TeamMemberTable {
  team_id: string;
  user_id: string;
  role: TeamRole;
  created_at: DefaultedTime;
}

export interface SessionTable {
  id: string;
  /** SHA-256 of its token. */
  token_hash: string;
  user_id: string;
  /** The team in which its requests act if they name none. */
  team_id: string | null;
  /** Where it was begun. */
  address: string | null;
  user_agent: string | null;
  created_at: DefaultedTime;
  last_used_at: DefaultedTime;
  expires_at: Date;
}

/** Deleted when it is accepted. */
export interface InvitationTable {
  id: string;
  token_hash: string;
  team_id: string;
  role: TeamRole;
  /** The only account that may accept it. */
  email: string | null;
  created_by: string | null;
  /** The user who made it, also with a key. */
  user_id: string | null;
  created_at: DefaultedTime;
  expires_at: Date;
}

/** With which a user sets a password, once. */
export interface PasswordLinkTable {
  user_id: string;
  token_hash: string;
  expires_at: Date;
}

export type ProviderId = 'github' | 'oidc';

/** A login of another service that is one of a user here. */
export interface IdentityTable {
  id: string;
  user_id: string;
  provider: ProviderId;
  /** The service, by its URL. With `subject`, unique. */
  issuer: string;
  /** The service's own id of the account; it never names another one later, as a name or an email address can. */
  subject: string;
  /** How the account was called when it was last used: for people only. */
  label: string;
  created_at: DefaultedTime;
  last_used_at: DefaultedTime;
}

/** A login with another service that is under way; deleted when the browser returns. */
export interface OauthAttemptTable {
  /** SHA-256 of the parameter `state`. */
  state_hash: string;
  /** SHA-256 of the cookie of the browser that began it. */
  browser_hash: string;
  provider: ProviderId;
  /** The session whose user gets the login; null to log in with it. */
  session_id: string | null;
  /** What else is needed then, encrypted (identities/attempts.ts). */
  sealed: string;
  expires_at: Date;
}

/** A program that waits for a user to log it in with a browser (users/device-login.ts). */
export interface DeviceLoginTable {
  device_code_hash: string;
  user_code_hash: string;
  /** Of the program. */
  address: string | null;
  user_agent: string | null;
  /** Who approved it. */
  user_id: string | null;
  state: Generated<'pending' | 'approved' | 'denied'>;
  polled_at: Date | null;
  created_at: DefaultedTime;
  expires_at: Date;
}

export type MailKind =
  | 'invitation'
  | 'password_reset'
  | 'password_changed'
  | 'identity_linked'
  | 'account_locked';

/** One that is to be sent, or was. */
export interface MailTable {
  /** A bigint, which the driver returns as a string. */
  id: GeneratedAlways<string>;
  recipient: string;
  kind: MailKind;
  /** What it says, encrypted, since it can have a link (mail/queue.ts); null once it is finished. */
  sealed: string | null;
  state: Generated<'pending' | 'sent' | 'dead'>;
  attempts: Generated<number>;
  next_attempt_at: DefaultedTime;
  last_error: string | null;
  created_at: DefaultedTime;
  finished_at: Date | null;
}

/** How often a credential was tried in the current window (auth/attempts.ts). */
export interface CredentialAttemptTable {
  key: string;
  attempts: number;
  window_ends_at: Date;
}
