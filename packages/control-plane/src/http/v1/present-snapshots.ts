import type { rest } from '@torpor/protocol';
import type { TemplateRow } from '../../database/schema.ts';
import type { HostImage } from '../../hosts/description.ts';
import type { PhaseTiming } from '../../hosts/timings.ts';
import type { Template } from '../../templates/service.ts';

/** A team's snapshot as the REST API shows it. */
export function presentSnapshot(
  row: TemplateRow,
  timings: readonly PhaseTiming[] = [],
): rest.Snapshot {
  return {
    name: row.name,
    type: row.type,
    vcpus: row.vcpus,
    memory_mb: row.memory_mb,
    size_bytes: Number(row.size_bytes),
    created_at: row.created_at.toISOString(),
    platform: false,
    ...(Object.keys(row.metadata).length === 0 ? {} : { metadata: row.metadata }),
    ...(timings.length === 0 ? {} : { timings: [...timings] }),
  };
}

/** An image of the host: a template of the platform, for every team. */
export function presentImage(image: HostImage): rest.Snapshot {
  return {
    name: image.name,
    type: 'base',
    size_bytes: image.sizeBytes,
    created_at: image.createdAt.toISOString(),
    platform: true,
  };
}

export function presentTemplate({ snapshot, image }: Template): rest.Snapshot {
  return snapshot === undefined ? presentImage(image) : presentSnapshot(snapshot);
}
