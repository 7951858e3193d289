export type { Permission } from '../permissions.ts';
export type { TemplateType } from '../template-types.ts';
export {
  type ApiKey,
  apiKeyListSchema,
  apiKeySchema,
  type CreateApiKey,
  type CreatedApiKey,
  createApiKeySchema,
  createdApiKeySchema,
} from './api-keys.ts';
export {
  type AuditEntry,
  type AuditPage,
  auditPageSchema,
  type ListAuditQuery,
  listAuditQuerySchema,
} from './audit.ts';
export {
  type BuildReport,
  buildReportListSchema,
  buildReportSchema,
  type CollectedBuilds,
  collectedBuildsSchema,
  verifyBuildsQuerySchema,
} from './builds.ts';
export {
  type ErrorBody,
  errorBodySchema,
  guestPathSchema,
  guestUserSchema,
  MAX_JSON_BODY_BYTES,
  type PageQuery,
  pageQuerySchema,
} from './common.ts';
export {
  type Event,
  eventGapSchema,
  eventIdSchema,
  eventSchema,
  type FollowEventsQuery,
  followEventsQuerySchema,
} from './events.ts';
export {
  type BackgroundExec,
  backgroundExecSchema,
  DEFAULT_EXEC_TIMEOUT_SEC,
  type ExecRequest,
  type ExecResult,
  execRequestSchema,
  execResultSchema,
  killProcessQuerySchema,
  listProcessesQuerySchema,
  MAX_EXEC_OUTPUT_BYTES,
  type ProcessList,
  parseProcessSelector,
  processListSchema,
  processSchema,
} from './exec.ts';
export {
  type FileEntry,
  fileEntryResponseSchema,
  fileEntrySchema,
  fileListSchema,
  filePathQuerySchema,
  type ListDirRequest,
  listDirRequestSchema,
  type PathRequest,
  pathRequestSchema,
  uploadFormSchema,
  uploadQuerySchema,
} from './files.ts';
export { type Health, healthSchema } from './health.ts';
export {
  type Quota,
  type QuotaList,
  quotaListSchema,
  type SetQuotas,
  setQuotasSchema,
} from './quotas.ts';
export {
  type CreateSandbox,
  createSandboxSchema,
  type ListSandboxesQuery,
  listSandboxesQuerySchema,
  type Sandbox,
  type SandboxList,
  sandboxIdSchema,
  sandboxListSchema,
  sandboxSchema,
} from './sandbox.ts';
export {
  type CreateSnapshot,
  createSnapshotQuerySchema,
  createSnapshotSchema,
  type ForkResult,
  type ForkSandbox,
  forkResultSchema,
  forkSandboxSchema,
  listSnapshotsQuerySchema,
  MAX_FORK_COUNT,
  type ResumeSandbox,
  resumeSandboxSchema,
  type Snapshot,
  snapshotListSchema,
  snapshotNameSchema,
  snapshotSchema,
} from './snapshots.ts';
export {
  authFrameSchema,
  type ExecClientFrame,
  type ExecServerFrame,
  execClientFrameSchema,
  execServerFrameSchema,
  MAX_CLIENT_FRAME_BYTES,
  OUTPUT_STREAMS,
  type ProcessClientFrame,
  type PtyClientFrame,
  type PtyServerFrame,
  processClientFrameSchema,
  ptyClientFrameSchema,
  ptyServerFrameSchema,
  WEBSOCKET_AUTH_TIMEOUT_MS,
  WEBSOCKET_PING_INTERVAL_MS,
} from './streams.ts';
export { MAX_USAGE_DAYS, type Usage, usageQuerySchema, usageSchema } from './usage.ts';
export {
  type CreatedWebhook,
  createdWebhookSchema,
  createWebhookSchema,
  DELIVERY_STATES,
  listDeliveriesQuerySchema,
  redeliveredSchema,
  updateWebhookSchema,
  WEBHOOK_FORMATS,
  type Webhook,
  type WebhookAttempt,
  type WebhookDelivery,
  webhookAttemptSchema,
  webhookDeliveryListSchema,
  webhookListSchema,
  webhookSchema,
} from './webhooks.ts';
