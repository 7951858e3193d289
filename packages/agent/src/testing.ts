/*
 * Internals of this package for the stubs of `@torpor/testkit`, tests that span packages and
 * benchmarks. Production code may not import it (tests/architecture).
 */
export { collectBuilds } from './builds/collect.ts';
export { verifyBuilds } from './builds/verify.ts';
export { type DataLayout, instanceTag, openLayout, recordFileIn } from './data-dir/layout.ts';
export { GuestSecrets } from './guest/access-token.ts';
export { GuestClient, type GuestEndpoint } from './guest/guest-client.ts';
export type { HostContext, PageService, PageServiceRequest } from './host-context.ts';
export { FileJournal } from './journal/file-journal.ts';
export { createSandbox } from './lifecycle/create.ts';
export { type CreateRequest, DEFAULT_DISK_MIB } from './lifecycle/create-request.ts';
export { destroyAll, destroySandbox } from './lifecycle/destroy.ts';
export { forkSandbox } from './lifecycle/fork.ts';
export { pauseSandbox } from './lifecycle/pause.ts';
export { Reaper, reapIdle } from './lifecycle/reap.ts';
export { resumeSandbox } from './lifecycle/resume.ts';
export { deleteSnapshot, snapshotSandbox } from './lifecycle/snapshot.ts';
export { PageServer } from './machine/page-server.ts';
export { releaseAddressBlock } from './network/address-block.ts';
export { removeHostFirewall } from './network/host-firewall.ts';
export { instanceNames } from './network/layout.ts';
export type { NetworkSlot, SlotPool, SlotRequest } from './network/slot.ts';
export { listSlots, removeSlot } from './network/slot-namespace.ts';
export { openSlotPool, type SlotPoolOptions } from './network/slot-pool.ts';
export { recoverSandboxes } from './recovery/recover.ts';
export { Fences } from './registry/fences.ts';
export { readRecord, writeRecord } from './registry/record.ts';
export { SandboxRegistry } from './registry/registry.ts';
export { agentRoutes } from './rpc/routes.ts';
