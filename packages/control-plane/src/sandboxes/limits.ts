import { rest, TorporError } from '@torpor/protocol';
import type { TemplateRow } from '../database/schema.ts';
import type { HostDescription } from '../hosts/connection.ts';

/** Below this the guest's kernel, Node.js and envd do not start. */
export const MIN_MEMORY_MB = 128;

/** What is made: from an image as the request asks, or from a snapshot as that is. */
export interface Shape {
  readonly template: string;
  readonly snapshot: TemplateRow | undefined;
  readonly vcpus: number;
  readonly memory_mb: number;
  readonly disk_size_mb: number | null;
}

/**
 * The shape of a new sandbox. A frozen memory cannot change its size, nor a frozen
 * machine its processors: throws `invalid_request` where other values than those of
 * the snapshot are asked for.
 */
export function shapeOf(request: rest.CreateSandbox, snapshot: TemplateRow | undefined): Shape {
  const { template } = request;
  if (snapshot === undefined) {
    return {
      template,
      snapshot,
      vcpus: request.vcpus ?? rest.SANDBOX_DEFAULTS.vcpus,
      memory_mb: request.memory_mb ?? rest.SANDBOX_DEFAULTS.memoryMb,
      disk_size_mb: request.disk_size_mb ?? null,
    };
  }
  const { vcpus, memory_mb, disk_size_mb } = snapshot;
  const fixed = { vcpus, memory_mb, ...(disk_size_mb === null ? {} : { disk_size_mb }) };
  for (const [name, value] of Object.entries(fixed)) {
    const asked = request[name as keyof typeof fixed];
    if (asked === undefined || asked === value) continue;
    const unit = name === 'vcpus' ? '' : ' MiB';
    const problem = `is ${value}${unit} in the snapshot ${template} and cannot be changed to ${asked}${unit}`;
    throw invalidField(name, problem, 'Leave it out.');
  }
  return { template, snapshot, vcpus, memory_mb, disk_size_mb };
}

/**
 * Checks what a create request asks for against what the host has. Throws
 * `invalid_request`, `capacity_exceeded` or `not_found`; nothing has been made then.
 */
export function checkRequest(request: Shape, host: HostDescription): void {
  if (request.vcpus < 1 || request.vcpus > host.maxVcpus) {
    throw invalidField('vcpus', `must be 1 to ${host.maxVcpus} on this host`);
  }
  if (request.memory_mb < MIN_MEMORY_MB) {
    throw invalidField(
      'memory_mb',
      `must be ${MIN_MEMORY_MB} to ${host.maxMemoryMb} MiB on this host`,
    );
  }
  if (request.memory_mb > host.maxMemoryMb) {
    throw new TorporError(
      'capacity_exceeded',
      `A sandbox on this host can have at most ${host.maxMemoryMb} MiB of memory; ${request.memory_mb} MiB were requested.`,
    );
  }
  if (request.snapshot === undefined && !host.templates.includes(request.template)) {
    const known = host.templates.length === 0 ? 'none' : host.templates.join(', ');
    throw new TorporError(
      'not_found',
      `There is no template ${JSON.stringify(request.template)}. Images on this host: ${known}.`,
      {
        remedy:
          '`torpor templates` shows what there is; `torpor snapshot` and `torpor image build` make more.',
      },
    );
  }
}

function invalidField(field: string, problem: string, remedy = ''): TorporError {
  const issues = [{ field, problem }];
  return new TorporError('invalid_request', `Invalid request: ${field} ${problem}.`, {
    issues,
    remedy,
  });
}
