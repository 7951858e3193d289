export type { JoinRequest } from './join.ts';
export { JoinedHost, type JoinedHostOptions } from './joined-host.ts';
