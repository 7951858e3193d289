import type { SandboxState } from '@torpor/protocol';
import { SYSTEM } from '../auth/principal.ts';
import type { OperationKind, OperationStatus, SandboxRow } from '../database/schema.ts';
import type { OutboxEvent } from '../events/outbox.ts';
import type { SandboxReport } from '../hosts/report.ts';

/**
 * The events of a change that no operation requested: the agent paused or destroyed a sandbox
 * by itself, its VMM died, its host became unreachable or reachable. There are none if the
 * state does not change, or for transitional states.
 */
export function reportEvents(row: SandboxRow, { state, reason }: SandboxReport): OutboxEvent[] {
  const change = row.state === state ? undefined : changeOf(row.state, state);
  if (change === undefined) return [];
  const metadata = { from: row.state, to: state, ...(reason === null ? {} : { reason }) };
  return [{ ...change, resource: row.id, teamId: row.team_id, actor: SYSTEM, metadata }];
}

interface Change {
  readonly kind: OperationKind;
  readonly status: OperationStatus;
}

function changeOf(from: SandboxState, to: SandboxState): Change | undefined {
  switch (to) {
    case 'stopped':
      return { kind: 'sandbox.destroy', status: 'success' };
    case 'error':
      return { kind: 'sandbox.fail', status: 'error' };
    case 'missing':
      return { kind: 'sandbox.lose', status: 'error' };
    case 'paused':
    case 'running':
      return arrivalAt(to, from);
    default:
      return undefined;
  }
}

function arrivalAt(to: 'paused' | 'running', from: SandboxState): Change | undefined {
  if (from === 'missing' || from === 'error') return { kind: 'sandbox.find', status: 'success' };
  // It was being copied: the fork has its own event.
  if (from === 'snapshotting') return undefined;
  if (to === 'paused') return { kind: 'sandbox.pause', status: 'success' };
  if (from === 'pausing') return { kind: 'sandbox.pause', status: 'error' };
  return { kind: 'sandbox.resume', status: 'success' };
}
