import './rpc-errors.ts';

export * from './basics.ts';
export { emailSchema } from './email.ts';
export * as envdFilesystem from './gen/envd/filesystem/filesystem_pb.ts';
export * as envdProcess from './gen/envd/process/process_pb.ts';
export * as enrolment from './gen/hostagent/v1/enrolment_pb.ts';
export * as hostAgent from './gen/hostagent/v1/hostagent_pb.ts';
export {
  ENVD_TIMING,
  GUEST,
  GUEST_DRIVES,
  type InitRequest,
  initRequestSchema,
  USER_HEADER,
} from './guest.ts';
export {
  currentRequestId,
  currentSpan,
  logRequestIds,
  parseRequestId,
  REQUEST_ID_HEADER,
  runAsRequest,
  runInSpan,
  runOutsideRequest,
} from './request-context.ts';
export * as rest from './rest/index.ts';
export {
  FORWARDING_TRACER,
  formatTraceParent,
  parseTraceParent,
  type Span,
  type SpanAttributes,
  type SpanOptions,
  type TraceHeaders,
  type Tracer,
  traceHeadersOf,
} from './span.ts';
export { createStreamingClient, sendStream } from './streaming-client.ts';
export { endAfter, endAfterMessages, recordPart, tracePart, traceWork } from './tracing.ts';
