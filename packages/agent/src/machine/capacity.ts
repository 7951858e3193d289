import { statfs } from 'node:fs/promises';
import { arch, availableParallelism, totalmem } from 'node:os';
import type { MessageInitShape } from '@bufbuild/protobuf';
import type { hostAgent } from '@torpor/protocol';
import type { HostContext } from '../host-context.ts';

export type HostCapacity = MessageInitShape<typeof hostAgent.HostCapacitySchema>;

const MIB = 1024 * 1024;
/** What the host keeps of its memory for itself: an eighth, and no more than this. */
const LARGEST_RESERVE_MIB = 2048;
const RESERVED_PART = 1 / 8;

/** What the host has for all of its sandboxes together. */
export async function hostCapacity(
  host: Pick<HostContext, 'driver' | 'layout' | 'builds' | 'agentVersion'>,
): Promise<HostCapacity> {
  const disk = await statfs(host.layout.dataDir);
  return {
    arch: arch(),
    vcpus: availableParallelism(),
    memoryMb: BigInt(await memoryMiB(host)),
    diskMb: BigInt(Math.floor((disk.bsize * disk.blocks) / MIB)),
    freeDiskMb: BigInt(Math.floor((disk.bsize * disk.bavail) / MIB)),
    builds: (await host.builds.list()).length,
    agentVersion: host.agentVersion,
  };
}

async function memoryMiB({
  driver,
  layout,
}: Pick<HostContext, 'driver' | 'layout'>): Promise<number> {
  const total = totalmem() / MIB;
  const usable = total - Math.min(total * RESERVED_PART, LARGEST_RESERVE_MIB);
  if (!driver.capabilities.memoryFile) return Math.floor(usable);
  const { blocks, bsize } = await statfs(layout.memoryRoot);
  return Math.floor(Math.min(usable, (blocks * bsize) / MIB));
}
