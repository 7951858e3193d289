/** The guest daemon on the plain host, whole and in parts. */
export { errorOf, FilesServer } from './files-server.ts';
export {
  byPid,
  byTag,
  collect,
  failureOf,
  type Outcome,
  type ProcessClient,
  ProcessDaemon,
  type StartInit,
  shell,
  stdin,
} from './process-daemon.ts';
export { TEST_USER, type TestGuest, testGuest } from './test-guest.ts';
