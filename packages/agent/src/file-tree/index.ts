/*
 * Trees of files as streams, between this machine and a guest or two guests. It loads without
 * the agent: a client of the API copies with it too.
 */
export { type Omission, TreeError, type TreeErrorCode } from './errors.ts';
export { type GuestProgram, guestProgram } from './guest-program.ts';
export { type PackOptions, packTree } from './pack.ts';
export type { FileTreeRequest } from './program-request.ts';
export {
  encodeRecord,
  RECORD as TREE_RECORD,
  readRecords,
  recordsIn,
  type TreeRecord,
  wholeRecords,
} from './records.ts';
export {
  failureOf,
  omissionOf,
  type Received,
  receivedOf,
  type UnpackOptions,
  unpackTree,
} from './unpack.ts';
