import './rpc-errors.ts';

export * from './basics.ts';
export * as envdFilesystem from './gen/envd/filesystem/filesystem_pb.ts';
export * as envdProcess from './gen/envd/process/process_pb.ts';
export * as enrolment from './gen/hostagent/v1/enrolment_pb.ts';
export * as hostAgent from './gen/hostagent/v1/hostagent_pb.ts';
export {
  GUEST,
  GUEST_DRIVES,
  type InitRequest,
  initRequestSchema,
  USER_HEADER,
} from './guest.ts';
export {
  currentRequestId,
  logRequestIds,
  parseRequestId,
  REQUEST_ID_HEADER,
  runAsRequest,
  runOutsideRequest,
} from './request-context.ts';
export * as rest from './rest/index.ts';
export { createStreamingClient, sendStream } from './streaming-client.ts';
