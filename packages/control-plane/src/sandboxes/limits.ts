import { SANDBOX_DEFAULTS, type TorporError } from '@torpor/protocol';
import type { TemplateRow } from '../database/schema.ts';
import { invalidFields } from '../validation/parse-with.ts';

/** The requested size; undefined where the template, the host or a default decides. */
export interface RequestedShape {
  readonly vcpus?: number | undefined;
  readonly memoryMb?: number | undefined;
  readonly diskSizeMb?: number | undefined;
}

/** The size of a new sandbox. */
export interface Shape {
  readonly vcpus: number;
  readonly memoryMb: number;
  /** The host's default if null. */
  readonly diskSizeMb: number | null;
}

/**
 * The size of a new sandbox: as requested, or that of its snapshot. The memory and processors
 * of a snapshot cannot change: throws `invalid_request` if the request has other values.
 */
export function shapeOf(request: RequestedShape, snapshot: TemplateRow | undefined): Shape {
  if (snapshot === undefined) {
    return {
      vcpus: request.vcpus ?? SANDBOX_DEFAULTS.vcpus,
      memoryMb: request.memoryMb ?? SANDBOX_DEFAULTS.memoryMb,
      diskSizeMb: request.diskSizeMb ?? null,
    };
  }
  const { name, vcpus, memory_mb: memoryMb, disk_size_mb: diskSizeMb } = snapshot;
  const fixed = { vcpus, memoryMb, diskSizeMb };
  for (const key of ['vcpus', 'memoryMb', 'diskSizeMb'] as const) {
    const asked = request[key];
    const value = fixed[key];
    if (asked === undefined || value === null || asked === value) continue;
    const unit = key === 'vcpus' ? '' : ' MiB';
    const problem = `is ${value}${unit} in the snapshot ${name} and cannot be changed to ${asked}${unit}`;
    throw invalidField(key, problem, 'Leave it out.');
  }
  return fixed;
}

/** A field by the name that it has here; a dialect says its own. */
function invalidField(field: keyof RequestedShape, problem: string, remedy = ''): TorporError {
  return invalidFields('request', [{ field, problem }], remedy);
}
