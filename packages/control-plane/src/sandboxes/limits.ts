import { type rest, TorporError } from '@torpor/protocol';
import type { HostDescription } from '../hosts/host.ts';

/** Below this the guest's kernel, Node.js and envd do not start. */
export const MIN_MEMORY_MB = 128;

/**
 * Checks what a create request asks for against what the host has. Throws
 * `invalid_request`, `capacity_exceeded` or `not_found`; nothing has been made then.
 */
export function checkRequest(request: rest.CreateSandbox, host: HostDescription): void {
  if (request.vcpus < 1 || request.vcpus > host.maxVcpus) {
    throw new TorporError(
      'invalid_request',
      `vcpus must be from 1 to ${host.maxVcpus} on this host; ${request.vcpus} was asked for.`,
    );
  }
  if (request.memory_mb < MIN_MEMORY_MB) {
    throw new TorporError(
      'invalid_request',
      `memory_mb must be from ${MIN_MEMORY_MB} to ${host.maxMemoryMb} on this host; ${request.memory_mb} was asked for.`,
    );
  }
  if (request.memory_mb > host.maxMemoryMb) {
    throw new TorporError(
      'capacity_exceeded',
      `memory_mb is ${request.memory_mb}, but a sandbox on this host can have at most ${host.maxMemoryMb} MB.`,
    );
  }
  if (!host.templates.includes(request.template)) {
    const known = host.templates.length === 0 ? 'none' : host.templates.join(', ');
    throw new TorporError(
      'not_found',
      `There is no template ${JSON.stringify(request.template)}. Templates on this host: ${known}.`,
      { remedy: 'Choose one of them, or build it with `torpor image build`.' },
    );
  }
}
