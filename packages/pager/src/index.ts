export { connectPager, type PagerConnection, type PagerLaunch } from './client/launch.ts';
export { PagerClient, PagerRequestError, type ServeOptions } from './client/pager-client.ts';
export type { PagerEvent, PagerHello, ServedVmStatus, VmDescription } from './control/protocol.ts';
export { LATENCY_BUCKETS, type PagerStatistics } from './fault-loop/statistics.ts';
