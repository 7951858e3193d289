export { forwardingObstacles } from './host-firewall.ts';
export { sampleRules } from './sample-rules.ts';
export type { NetworkSlot, SlotPool, SlotPoolStats, SlotRequest } from './slot.ts';
export { openSlotPool, type SlotPoolOptions } from './slot-pool.ts';
