// The part without schemas and libraries: it loads in a fraction of the time of the whole package.
export {
  ERRORS,
  type ErrorCode,
  type FieldIssue,
  isErrorCode,
  TorporError,
  type TorporErrorOptions,
} from './errors.ts';
export { EVENT_TYPES, type EventType, isEventPattern } from './event-types.ts';
export { formatBytes } from './format-bytes.ts';
export {
  canonicalApiKey,
  ID_PREFIXES,
  type IdKind,
  isId,
  newApiKey,
  newId,
} from './ids.ts';
export {
  isPermission,
  MEMBER_PERMISSIONS,
  PERMISSION_NAMES,
  PERMISSIONS,
  type Permission,
} from './permissions.ts';
export {
  isQuotaName,
  QUOTA_NAMES,
  QUOTAS,
  type QuotaLimits,
  type QuotaName,
} from './quotas.ts';
export { REMEDIES, type RemedyName } from './remedies.ts';
export { SANDBOX_DEFAULTS } from './sandbox-defaults.ts';
export {
  assertTransition,
  canTransition,
  isSandboxState,
  isTransitional,
  SANDBOX_STATES,
  type SandboxState,
  STATES_WITH_MEMORY,
} from './sandbox-state.ts';
export { withFullStop } from './sentence.ts';
export {
  SIGNAL_NAMES,
  type SignalName,
  signalNumber,
  signalOfStatus,
  signalStatus,
} from './signals.ts';
export { TEMPLATE_TYPES, type TemplateType } from './template-types.ts';
