export {
  ERRORS,
  type ErrorCode,
  type FieldIssue,
  isErrorCode,
  TorporError,
  type TorporErrorOptions,
} from './errors.ts';
export * as envdFilesystem from './gen/envd/filesystem/filesystem_pb.ts';
export * as envdProcess from './gen/envd/process/process_pb.ts';
export * as hostAgent from './gen/hostagent/v1/hostagent_pb.ts';
export {
  GUEST,
  GUEST_DRIVES,
  type InitRequest,
  initRequestSchema,
  USER_HEADER,
} from './guest.ts';
export {
  canonicalApiKey,
  ID_PREFIXES,
  type IdKind,
  isId,
  newApiKey,
  newId,
} from './ids.ts';
export * as rest from './rest/index.ts';
export {
  assertTransition,
  canTransition,
  isSandboxState,
  isTransitional,
  SANDBOX_STATES,
  type SandboxState,
} from './sandbox-state.ts';
export { withFullStop } from './sentence.ts';
export {
  SIGNAL_NAMES,
  type SignalName,
  signalNumber,
  signalOfStatus,
  signalStatus,
} from './signals.ts';
export { createStreamingClient, sendStream } from './streaming-client.ts';
