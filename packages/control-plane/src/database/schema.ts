import type { EventType, Permission, QuotaName, SandboxState } from '@torpor/protocol';
import type {
  ColumnType,
  Generated,
  GeneratedAlways,
  Insertable,
  JSONColumnType,
  Selectable,
  Updateable,
} from 'kysely';
import type { DefaultedMap, DefaultedTime, StringMap } from './columns.ts';
import type {
  CredentialAttemptTable,
  DeviceLoginTable,
  IdentityTable,
  InvitationTable,
  MailTable,
  OauthAttemptTable,
  PasswordLinkTable,
  SessionTable,
  TeamMemberTable,
  TeamTable,
  UserTable,
} from './schema-accounts.ts';
import type {
  AuthorityTable,
  ControlPlaneTable,
  GivenUpTable,
  HostImageTable,
  HostTable,
  HostTokenTable,
  HostUsageTable,
  TemplateHostTable,
} from './schema-hosts.ts';

export type {
  DeviceLoginTable,
  IdentityTable,
  InvitationTable,
  MailTable,
  ProviderId,
  SessionTable,
  TeamRole,
  TeamTable,
  UserStatus,
  UserTable,
} from './schema-accounts.ts';
export type { AuthorityTable } from './schema-hosts.ts';

export interface ApiKeyTable {
  id: string;
  team_id: string;
  name: string;
  /** SHA-256 of the key in its `tpr_` form, as 64 hexadecimal digits. */
  key_hash: string;
  /** The first characters of the key, to tell keys apart in a list. */
  key_prefix: string;
  /** What it may do: the permissions of `@torpor/protocol`. */
  scopes: Permission[];
  /** The user or key that created it; null for one that was made with the data directory. */
  created_by: string | null;
  /** The user who made it, also with another key; null if no user did. */
  user_id: string | null;
  created_at: DefaultedTime;
  last_used_at: Date | null;
  /** From when on it is refused. */
  expires_at: Date | null;
}

export interface SandboxTable {
  id: string;
  team_id: string;
  host_id: string;
  template: string;
  state: SandboxState;
  /** The state that it had when it became `unreachable`; null in every other state. */
  lost_from: Generated<SandboxState | null>;
  reason: string | null;
  vcpus: number;
  memory_mb: number;
  disk_size_mb: number | null;
  timeout_sec: number;
  /** When its time to live expires, it is paused rather than destroyed. */
  auto_pause: Generated<boolean>;
  allow_internet: boolean;
  /** The last build that was made of it. */
  build_id: string | null;
  host_ip: string | null;
  /** Those of its template, which snapshots of it inherit. */
  default_user: string | null;
  default_env: DefaultedMap;
  metadata: StringMap;
  versions: StringMap;
  created_at: DefaultedTime;
  started_at: Date | null;
  last_active_at: Date | null;
  updated_at: DefaultedTime;
  /** When it was destroyed; also set while it is `destroying` because its host has yet to do so. */
  ended_at: Date | null;
  /** Incremented by every write of the state, so that a writer can tell whether the row has changed since it read it. */
  revision: Generated<number>;
}

/**
 * `pending`: the host is creating it; `deleting`: the host may still keep it. Both have
 * rows, so that after a crash the host releases builds that no name refers to.
 */
export type TemplateState = 'pending' | 'ready' | 'deleting';

/** `base`: an image of the platform. */
export type TemplateType = 'base' | 'snapshot';

export interface TemplateTable {
  /** The reference under which the host keeps the build. */
  id: string;
  /** That of the platform: every team may use it. */
  team_id: string;
  /** Unique in its team among those that are `ready`. */
  name: string;
  type: TemplateType;
  state: TemplateState;
  source_sandbox_id: string | null;
  build_id: string | null;
  vcpus: number;
  memory_mb: number;
  disk_size_mb: number | null;
  /** A bigint, which the driver returns as a string. */
  size_bytes: ColumnType<string, number, number>;
  /** Who runs the programs of sandboxes made from it; null: who the image says. */
  default_user: string | null;
  /** The environment of their programs. */
  default_env: DefaultedMap;
  metadata: StringMap;
  created_at: DefaultedTime;
}

/** The operations that are recorded. */
export type OperationKind = Exclude<
  Extract<EventType, `sandbox.${string}` | `snapshot.${string}`>,
  'sandbox.state'
>;

/** What is recorded of changes. */
export type EventKind = EventType;

export type ActorType = 'api_key' | 'user' | 'system';

export type OperationStatus = 'success' | 'error';

/** A lease: the right of one operation to change one resource (operations/locks.ts). */
export interface OperationTable {
  /** The id of a sandbox, or `name:TEAM/NAME` of a snapshot. */
  resource: string;
  /** One acquisition of one control plane. */
  holder: string;
  /** The holder whose operation the other columns describe: differs from `holder` once another control plane has acquired the lease. */
  begun_by: string;
  kind: OperationKind;
  team_id: string | null;
  actor_type: ActorType;
  actor_id: string | null;
  actor_name: string | null;
  expires_at: Date;
}

/** What operations did, written in the same transaction. Audit and notifications are fed from it. */
export interface OutboxTable {
  /** A bigint, which the driver returns as a string. */
  id: GeneratedAlways<string>;
  kind: EventKind;
  /** The id of what it is about, or the name of the snapshot. */
  resource: string;
  team_id: string;
  actor_type: ActorType;
  actor_id: string | null;
  actor_name: string | null;
  status: OperationStatus;
  metadata: StringMap;
  created_at: Generated<Date>;
  /** When every consumer had received it. */
  delivered_at: Date | null;
  /** Its place among the delivered ones: a bigint, larger than that of every one before it. */
  position: ColumnType<string | null, never, string>;
}

/** A time in which a sandbox or snapshot took the same (events/usage.ts). */
export interface UsageIntervalTable {
  id: GeneratedAlways<string>;
  team_id: string;
  resource_type: string;
  resource: string;
  vcpus: number;
  memory_mb: number;
  disk_mb: number;
  started_at: Date;
  /** Null while it is so. */
  ended_at: Date | null;
}

/** An event as readers outside get it. */
export interface EventDocument {
  /** Its position. */
  readonly id: string;
  readonly type: string;
  readonly status: OperationStatus;
  readonly team_id: string;
  readonly resource: { readonly type: string; readonly id: string };
  readonly actor: { readonly type: ActorType; readonly id?: string; readonly name?: string };
  readonly metadata: Record<string, string>;
  /** RFC 3339. */
  readonly created_at: string;
}

export type WebhookFormat = 'json' | 'slack' | 'discord';

export interface WebhookTable {
  id: string;
  team_id: string;
  /** Unique in its team. */
  name: string;
  format: WebhookFormat;
  /** Encrypted (auth/secret-box.ts), like the secret. */
  url: string;
  /** Key of the signatures. */
  secret: string;
  /** The one before it, with which messages are signed too until `previous_secret_until`. */
  previous_secret: Generated<string | null>;
  previous_secret_until: Generated<Date | null>;
  /** Types, or kinds of resources and `.*`. */
  event_types: string[];
  enabled: Generated<boolean>;
  /** Who made or changed it last, also with a key; null if no user did. */
  user_id: string | null;
  created_at: DefaultedTime;
  updated_at: DefaultedTime;
}

/** `dead`: given up. */
export type DeliveryState = 'pending' | 'delivered' | 'dead';

/** An event for one webhook. */
export interface WebhookDeliveryTable {
  id: GeneratedAlways<string>;
  webhook_id: string;
  /** Position of the event. */
  event_id: string;
  resource: string;
  event: JSONColumnType<EventDocument, string, never>;
  state: DeliveryState;
  /** Begun ones. */
  attempts: Generated<number>;
  /** Not before then; while it is being sent, when another one may send it. */
  next_attempt_at: DefaultedTime;
  last_status: number | null;
  last_error: string | null;
  created_at: DefaultedTime;
  finished_at: Date | null;
}

/** One row. Who has locked it delivers events. */
export interface EventStreamTable {
  /** The position of the last event, a bigint; 0 before the first. */
  head: ColumnType<string, string, string>;
}

/** Who reads an entry: everyone who reads the audit log, or admins only. */
export type AuditScope = 'team' | 'admin';

export interface AuditLogTable {
  id: string;
  team_id: string;
  actor_type: ActorType;
  actor_id: string | null;
  actor_name: string | null;
  resource_type: string;
  resource_id: string;
  action: string;
  status: OperationStatus;
  metadata: StringMap;
  scope: AuditScope;
  created_at: Generated<Date>;
  /** The event that it records. */
  outbox_id: string | null;
}

/** One row: the secret key with which the database is used (secrets/secret-key.ts). */
export interface SecretKeyTable {
  id: number;
  fingerprint: string;
  created_at: Generated<Date>;
}

/** The answer to a request with an idempotency key (idempotency/). */
export interface IdempotencyKeyTable {
  team_id: string;
  key: string;
  /** Tells the request from others with the key. */
  fingerprint: string;
  /** The attempt that handles the request. */
  holder: string;
  /** When another attempt may take over, unless there is a response. */
  expires_at: Date;
  /** Encrypted: what has been made for the request, written with it. */
  made: string | null;
  /** Encrypted. */
  response: string | null;
  created_at: DefaultedTime;
}

/** A limit of one team; the platform's default applies to what has no row. */
export interface TeamQuotaTable {
  team_id: string;
  name: QuotaName;
  /** A bigint. Null: no limit. */
  maximum: ColumnType<string | null, number | null, number | null>;
}

export interface Database {
  control_planes: ControlPlaneTable;
  hosts: HostTable;
  host_usage: HostUsageTable;
  host_images: HostImageTable;
  template_hosts: TemplateHostTable;
  given_up: GivenUpTable;
  host_tokens: HostTokenTable;
  authority: AuthorityTable;
  secret_key: SecretKeyTable;
  teams: TeamTable;
  users: UserTable;
  team_members: TeamMemberTable;
  sessions: SessionTable;
  invitations: InvitationTable;
  password_links: PasswordLinkTable;
  credential_attempts: CredentialAttemptTable;
  identities: IdentityTable;
  oauth_attempts: OauthAttemptTable;
  device_logins: DeviceLoginTable;
  mails: MailTable;
  api_keys: ApiKeyTable;
  sandboxes: SandboxTable;
  templates: TemplateTable;
  operations: OperationTable;
  outbox: OutboxTable;
  event_stream: EventStreamTable;
  webhooks: WebhookTable;
  webhook_deliveries: WebhookDeliveryTable;
  usage_intervals: UsageIntervalTable;
  audit_logs: AuditLogTable;
  idempotency_keys: IdempotencyKeyTable;
  team_quotas: TeamQuotaTable;
}

export type SandboxRow = Selectable<SandboxTable>;
export type NewSandboxRow = Insertable<SandboxTable>;
export type SandboxChanges = Updateable<SandboxTable>;
export type TemplateRow = Selectable<TemplateTable>;
export type NewTemplateRow = Insertable<TemplateTable>;
export type HostRow = Selectable<HostTable>;
export type UserRow = Selectable<UserTable>;
