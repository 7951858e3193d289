export { hasJoined } from './enrolment-file.ts';
export type { JoinRequest } from './join.ts';
export { JoinedHost, type JoinedHostOptions } from './joined-host.ts';
export { enrolmentStatus } from './status.ts';
