export {
  connectPager,
  isNotListening,
  type PagerConnection,
  type PagerLaunch,
} from './client/launch.ts';
export { PagerClient, type ServeOptions } from './client/pager-client.ts';
export type { PagerEvent, PagerHello, ServedVmStatus, VmDescription } from './control/protocol.ts';
export type { PagerStatistics } from './fault-loop/statistics.ts';
