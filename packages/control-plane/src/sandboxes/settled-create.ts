import { TorporError } from '@torpor/protocol';
import type { Principal } from '../auth/principal.ts';
import type { SandboxRow } from '../database/schema.ts';
import { findOwn } from './access.ts';
import type { SandboxParts } from './parts.ts';

/** The row of a sandbox whose create or fork is over; what a dead control plane left is settled first. */
export function settledCreate(
  { runner, sandboxes }: SandboxParts,
  { teamId, actor }: Principal,
  id: string,
  kind: 'sandbox.create' | 'sandbox.fork',
): Promise<SandboxRow> {
  return runner.withLock(id, { kind, teamId, actor }, () => findOwn(sandboxes, { teamId }, id));
}

export function notCreated({ id, reason }: SandboxRow): TorporError {
  const why = reason === null ? '.' : `: ${reason}`;
  return new TorporError('vmm_failed', `Sandbox ${id} could not be created${why}`);
}
