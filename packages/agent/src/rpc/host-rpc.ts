import { statfs } from 'node:fs/promises';
import { arch, cpus, totalmem } from 'node:os';
import type { MessageInitShape } from '@bufbuild/protobuf';
import type { ServiceImpl } from '@connectrpc/connect';
import type { hostAgent } from '@torpor/protocol';
import type { BaseImages, SandboxLimits } from '../host-context.ts';
import { destroyAll } from '../lifecycle/destroy.ts';
import type { HostCapacity } from '../machine/capacity.ts';
import type { SandboxRegistry } from '../registry/registry.ts';

type Methods = Pick<ServiceImpl<typeof hostAgent.HostAgentService>, 'describeHost' | 'terminate'>;

export interface HostDescription {
  readonly dataDir: string;
  readonly limits: SandboxLimits;
  readonly versions: Readonly<Record<string, string>>;
  readonly images: Pick<BaseImages, 'list'>;
  readonly capacity: () => Promise<HostCapacity>;
}

const MIB = 1024 * 1024;

/** What the host is and has: for control planes that ask, and in heartbeats. */
export async function describeHost(
  host: HostDescription,
): Promise<MessageInitShape<typeof hostAgent.DescribeHostResponseSchema>> {
  const disk = await statfs(host.dataDir);
  const images = await host.images.list();
  return {
    arch: arch(),
    cpuCores: cpus().length,
    memoryMb: BigInt(Math.floor(totalmem() / MIB)),
    diskMb: BigInt(Math.floor((disk.bsize * disk.blocks) / MIB)),
    maxVcpus: host.limits.maxVcpus,
    maxMemoryMb: BigInt(host.limits.maxMemoryMiB),
    versions: host.versions,
    images: images.map(({ name, sizeBytes, createdAt }) => ({
      name,
      sizeBytes: BigInt(sizeBytes),
      createdAtUnix: BigInt(Math.floor(createdAt / 1000)),
    })),
    capacity: await host.capacity(),
  };
}

/** The calls about the host and the agent itself. */
export function hostRpc(
  registry: SandboxRegistry,
  host: HostDescription,
  onTerminate: () => void,
): Methods {
  return {
    describeHost: () => describeHost(host),

    async terminate() {
      await destroyAll(registry);
      // After the response has been sent.
      setImmediate(onTerminate);
      return {};
    },
  };
}
