/** What an agent reports of its host, as rows. */
import type { hostAgent } from '@torpor/protocol';
import type { HostRow } from '../database/schema.ts';
import { storableText } from '../validation/text.ts';

/** The columns of a host that come from its agent. */
export type HostFacts = Pick<
  HostRow,
  | 'arch'
  | 'vcpus'
  | 'memory_mb'
  | 'disk_mb'
  | 'free_disk_mb'
  | 'builds'
  | 'max_vcpus'
  | 'max_memory_mb'
  | 'agent_version'
>;

/** An image of a host. Every team that may use the host can create sandboxes from it. */
export interface HostImage {
  readonly name: string;
  readonly sizeBytes: number;
  readonly createdAt: Date;
}

/** What a host is and has. */
export interface HostReport {
  readonly facts: Partial<HostFacts>;
  /** Undefined if it did not report them. */
  readonly images?: readonly HostImage[] | undefined;
}

export function reportOfDescription(description: hostAgent.DescribeHostResponse): HostReport {
  const { capacity, maxVcpus, maxMemoryMb, images } = description;
  return {
    facts: {
      ...capacityFacts(capacity),
      max_vcpus: maxVcpus,
      max_memory_mb: Number(maxMemoryMb),
    },
    images: images.map(({ name, sizeBytes, createdAtUnix }) => ({
      name: storableText(name),
      sizeBytes: Number(sizeBytes),
      createdAt: new Date(Number(createdAtUnix) * 1000),
    })),
  };
}

/** Nothing for an agent that does not report its capacity. */
export function capacityFacts(capacity: hostAgent.HostCapacity | undefined): Partial<HostFacts> {
  if (capacity === undefined) return {};
  return {
    arch: capacity.arch,
    vcpus: capacity.vcpus,
    memory_mb: Number(capacity.memoryMb),
    disk_mb: Number(capacity.diskMb),
    free_disk_mb: Number(capacity.freeDiskMb),
    builds: capacity.builds,
    agent_version: capacity.agentVersion,
  };
}
