/** What an agent reports of its host, as rows. */
import type { hostAgent } from '@torpor/protocol';
import type { HostRow } from '../database/schema.ts';

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
      max_vcpus: reportedNumber(maxVcpus),
      max_memory_mb: reportedNumber(maxMemoryMb),
    },
    images: images.map(({ name, sizeBytes, createdAtUnix }) => ({
      name: reportedText(name),
      sizeBytes: Math.min(Math.max(Number(sizeBytes), 0), Number.MAX_SAFE_INTEGER),
      createdAt: new Date(Math.min(Math.max(Number(createdAtUnix), 0), MAX_UNIX_TIME) * 1000),
    })),
  };
}

/** Nothing for an agent that does not report its capacity. */
export function capacityFacts(capacity: hostAgent.HostCapacity | undefined): Partial<HostFacts> {
  if (capacity === undefined) return {};
  return {
    arch: reportedText(capacity.arch),
    vcpus: reportedNumber(capacity.vcpus),
    memory_mb: reportedNumber(capacity.memoryMb),
    disk_mb: reportedNumber(capacity.diskMb),
    free_disk_mb: reportedNumber(capacity.freeDiskMb),
    builds: reportedNumber(capacity.builds),
    agent_version: reportedText(capacity.agentVersion),
  };
}

const MAX_INTEGER = 2 ** 31 - 1;
const MAX_REPORTED_LENGTH = 255;
/** The year 9999. */
const MAX_UNIX_TIME = 253_402_300_799;

/** An agent may report anything: what the column cannot have is the largest that it can. */
function reportedNumber(value: number | bigint): number {
  return Math.min(Math.max(Number(value), 0), MAX_INTEGER);
}

/** Without what a terminal would interpret. */
function reportedText(text: string): string {
  return text.slice(0, MAX_REPORTED_LENGTH).replace(/[^\x20-\x7e]/g, '?');
}
