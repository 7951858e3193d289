import { REMEDIES, SANDBOX_DEFAULTS, TorporError } from '@torpor/protocol';
import type { TemplateRow } from '../database/schema.ts';
import type { HostDescription } from '../hosts/connection.ts';
import { invalidFields } from '../validation/parse-with.ts';

/** Below this the guest's kernel, Node.js and envd do not start. */
const MIN_MEMORY_MB = 128;

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

/** Checks a size against what the host has. Throws `invalid_request` or `capacity_exceeded`. */
export function checkShape({ vcpus, memoryMb }: Shape, host: HostDescription): void {
  if (vcpus < 1 || vcpus > host.maxVcpus) {
    throw invalidField('vcpus', `must be 1 to ${host.maxVcpus} on this host`);
  }
  if (memoryMb < MIN_MEMORY_MB) {
    throw invalidField(
      'memoryMb',
      `must be ${MIN_MEMORY_MB} to ${host.maxMemoryMb} MiB on this host`,
    );
  }
  if (memoryMb > host.maxMemoryMb) {
    throw new TorporError(
      'capacity_exceeded',
      `A sandbox on this host can have at most ${host.maxMemoryMb} MiB of memory; ${memoryMb} MiB were requested.`,
    );
  }
}

/** Throws `not_found` if the host has no image of this name. */
export function requireImage(name: string, host: HostDescription): void {
  if (host.templates.includes(name)) return;
  const known = host.templates.length === 0 ? 'none' : host.templates.join(', ');
  throw new TorporError(
    'not_found',
    `There is no template ${JSON.stringify(name)}. Images on this host: ${known}.`,
    { remedy: REMEDIES.listOrMakeTemplates },
  );
}

/** A field by the name that it has here; a dialect says its own. */
function invalidField(field: keyof RequestedShape, problem: string, remedy = ''): TorporError {
  return invalidFields('request', [{ field, problem }], remedy);
}
