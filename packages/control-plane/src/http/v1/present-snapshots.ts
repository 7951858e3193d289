import type { rest } from '@torpor/protocol';
import { PLATFORM_TEAM_ID } from '../../auth/roles.ts';
import type { TemplateRow } from '../../database/schema.ts';
import type { HostImage } from '../../hosts/description.ts';
import type { PhaseTiming } from '../../hosts/timings.ts';
import type { Template } from '../../templates/service.ts';

/** A new snapshot as the REST API shows it. */
export function presentSnapshot(
  row: TemplateRow,
  timings: readonly PhaseTiming[] = [],
): rest.Snapshot {
  return {
    ...presentRow(row),
    ...(timings.length === 0 ? {} : { timings: [...timings] }),
  };
}

export function presentRow(row: TemplateRow): rest.Template {
  const { disk_size_mb, build_id, default_user, default_env, metadata } = row;
  return {
    name: row.name,
    type: row.type,
    vcpus: row.vcpus,
    memory_mb: row.memory_mb,
    ...(disk_size_mb === null ? {} : { disk_size_mb }),
    size_bytes: Number(row.size_bytes),
    ...(build_id === null ? {} : { build_id }),
    ...(default_user === null ? {} : { default_user }),
    ...(isEmpty(default_env) ? {} : { default_env }),
    created_at: row.created_at.toISOString(),
    platform: row.team_id === PLATFORM_TEAM_ID,
    ...(isEmpty(metadata) ? {} : { metadata }),
  };
}

/** An image of the host: a template of the platform, for every team. */
export function presentImage(image: HostImage): rest.Template {
  return {
    name: image.name,
    type: 'base',
    size_bytes: image.sizeBytes,
    created_at: image.createdAt.toISOString(),
    platform: true,
  };
}

export function presentTemplate({ snapshot, image }: Template): rest.Template {
  return snapshot === undefined ? presentImage(image) : presentRow(snapshot);
}

function isEmpty(map: Readonly<Record<string, string>>): boolean {
  return Object.keys(map).length === 0;
}
