import { type RawBuilder, sql } from 'kysely';

/** What a new sandbox is started from. */
export type Origin =
  | { readonly image: string; readonly snapshot?: never }
  | { readonly snapshot: { readonly id: string; readonly name: string }; readonly image?: never };

/** What a new sandbox needs of its host. */
export interface PlacementRequest {
  readonly teamId: string;
  readonly vcpus: number;
  readonly memoryMb: number;
  readonly origin: Origin;
  /** Tags that its host must have. */
  readonly hostTags: readonly string[];
}

/** Below this the guest's kernel, Node.js and envd do not start. */
export const MIN_MEMORY_MB = 128;
const SPARE_DISK_MB = 512;

/** Whether a host has enough free disk. One that reports no disk has. */
export function hasDisk(memoryMb: number): RawBuilder<boolean> {
  return sql<boolean>`(coalesce(hosts.disk_mb, 0) = 0
    or hosts.free_disk_mb >= ${memoryMb + SPARE_DISK_MB}::bigint)`;
}

/** Whether a host has the memory, the vCPUs and the disk that a sandbox takes. */
export function hasRoom(
  { memoryMb, vcpus }: Pick<PlacementRequest, 'memoryMb' | 'vcpus'>,
  vcpuOvercommit: number | undefined,
): RawBuilder<boolean> {
  const hasVcpus =
    vcpuOvercommit === undefined
      ? sql`true`
      : sql`usage.vcpus + ${vcpus}::bigint <= coalesce(hosts.vcpus, 1) * ${vcpuOvercommit}::bigint`;
  return sql<boolean>`(usage.memory_mb + ${memoryMb}::bigint <= coalesce(hosts.memory_mb, 0)
    and ${hasVcpus} and ${hasDisk(memoryMb)})`;
}

/** Whether a host has what the sandbox is started from. */
export function hasOrigin({ image, snapshot }: Origin): RawBuilder<boolean> {
  return image === undefined
    ? sql<boolean>`exists (select from template_hosts where template_id = ${snapshot.id}
        and host_id = hosts.id)`
    : sql<boolean>`exists (select from host_images where host_id = hosts.id and name = ${image})`;
}
