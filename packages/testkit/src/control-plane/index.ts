/** A control plane with an agent without virtual machines. */
import { fileURLToPath } from 'node:url';

export { Fleet, type Member, type RecordedEvent, type SeverableMember } from './fleet.ts';
export {
  errorOf,
  type Harness,
  openTestSite,
  recordingLogger,
  startHarness,
  type TestSite,
  until,
} from './harness.ts';
export { MemoryAgent } from './memory-agent.ts';
export { BUILD_SIZE_BYTES } from './memory-builds.ts';
export { MemoryHost } from './memory-host.ts';
export {
  invited,
  logIn,
  newUser,
  PASSWORD,
  Person,
  request,
  type Server,
  tokenOf,
} from './person.ts';
export type { Step } from './severable.ts';

/** Programs that a test kills. Their argument is a data directory. */
export const EMBEDDED_OWNER = fileURLToPath(new URL('./embedded-owner.ts', import.meta.url));
export const INTERRUPTED_CONTROL_PLANE = fileURLToPath(
  new URL('./interrupted-control-plane.ts', import.meta.url),
);
