export { type ErrorCode, type Permission, TorporError } from '@torpor/protocol/basics';
export {
  type ApiKey,
  type AuditEntry,
  type Caller,
  type CreatedApiKey,
  type CreatedHost,
  type CreatedInvitation,
  type CreatedUser,
  type CreatedWebhook,
  type Event,
  type Host,
  type HostDeletePreview,
  type HostToken,
  type Invitation,
  type InvitationPreview,
  MAX_EXEC_OUTPUT_BYTES,
  type Member,
  type OneTimeLink,
  type Quota,
  type QuotaList,
  type Session,
  type Snapshot,
  type Team,
  type Template,
  type Usage,
  type User,
  type Webhook,
  type WebhookAttempt,
  type WebhookDelivery,
} from '@torpor/protocol/rest';
export {
  Account,
  type DeviceLogin,
  type LoggedIn,
  type LoginOptions,
  type SignUpOptions,
} from './account.ts';
export { ApiKeys, type CreateApiKeyOptions } from './api-keys.ts';
export { AuditLog, type AuditLogOptions } from './audit-log.ts';
export { Builds } from './builds.ts';
export { Events, type FollowEventsOptions } from './events.ts';
export { type FileOptions, Files } from './files.ts';
export {
  type CreateHostOptions,
  type DeleteHostOptions,
  type HostChanges,
  Hosts,
} from './hosts.ts';
export {
  type ConnectionOptions,
  type CreateOptions,
  DEFAULT_API_URL,
  type TraceHeaders,
} from './http/connection.ts';
export { Processes, type ProcessInfo } from './processes.ts';
export { Quotas } from './quotas.ts';
export {
  type CommandOptions,
  type ExecOptions,
  type ExecResult,
  type ExecStreamOptions,
  type Forked,
  type ForkOptions,
  type PauseOptions,
  type PtyOptions,
  type ResumeOptions,
  Sandbox,
  type SandboxInfo,
} from './sandbox.ts';
export { type CreateSandboxOptions, type ListSandboxesOptions, Sandboxes } from './sandboxes.ts';
export { type CreateSnapshotOptions, Snapshots } from './snapshots.ts';
export type { ExitStatus } from './streams/attached-program.ts';
export { ExecSession, type OutputChunk } from './streams/exec-session.ts';
export { PtySession, type TerminalSize } from './streams/pty-session.ts';
export { type InviteOptions, Teams } from './teams.ts';
export { type ListTemplatesOptions, Templates } from './templates.ts';
export { Torpor, type UsageOptions } from './torpor.ts';
export { type CreateUserOptions, type UserChanges, Users } from './users.ts';
export {
  type ReceivedWebhook,
  type VerifyWebhookOptions,
  verifyWebhook,
} from './verify-webhook.ts';
export {
  type ListDeliveriesOptions,
  type WebhookChanges,
  type WebhookSettings,
  Webhooks,
} from './webhooks.ts';
