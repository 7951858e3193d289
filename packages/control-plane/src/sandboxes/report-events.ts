import { isTransitional, type SandboxState } from '@torpor/protocol';
import { SYSTEM } from '../auth/principal.ts';
import type { OperationKind, OperationStatus } from '../database/schema.ts';
import type { OutboxEvent } from '../events/outbox.ts';
import type { ComparedRow, SandboxReport } from '../hosts/report.ts';

/**
 * The events of a change that no operation requested: the agent paused or destroyed a sandbox
 * by itself, its VMM died, its host became unreachable or reachable. There are none if the
 * state does not change, for transitional states, and for the end of a sandbox whose destroy was
 * recorded when it was requested.
 */
export function reportEvents(row: ComparedRow, { state, reason }: SandboxReport): OutboxEvent[] {
  if (row.state === state || row.ended_at !== null) return [];
  const metadata = { from: row.state, to: state, ...(reason === null ? {} : { reason }) };
  const common = { resource: row.id, teamId: row.team_id, actor: SYSTEM, metadata };
  return changesOf(row, state).map((change) => ({ ...change, ...common }));
}

interface Change {
  readonly kind: OperationKind;
  readonly status: OperationStatus;
}

const FOUND: Change = { kind: 'sandbox.find', status: 'success' };

function changesOf({ state: from, lost_from }: ComparedRow, to: SandboxState): Change[] {
  const change = changeOf(from, to);
  // It was paused or resumed while its host did not respond.
  const meanwhile =
    change === FOUND && lost_from !== null && lost_from !== to && !isTransitional(lost_from)
      ? changeOf(lost_from, to)
      : undefined;
  return [change, meanwhile].flatMap((one) => one ?? []);
}

function changeOf(from: SandboxState, to: SandboxState): Change | undefined {
  switch (to) {
    case 'stopped':
      return { kind: 'sandbox.destroy', status: 'success' };
    case 'error':
    case 'missing':
      return { kind: 'sandbox.fail', status: 'error' };
    case 'unreachable':
      return { kind: 'sandbox.lose', status: 'error' };
    case 'paused':
    case 'running':
      return arrivalAt(to, from);
    default:
      return undefined;
  }
}

function arrivalAt(to: 'paused' | 'running', from: SandboxState): Change | undefined {
  if (from === 'unreachable' || from === 'missing' || from === 'error') return FOUND;
  // It was being copied: the fork has its own event.
  if (from === 'snapshotting') return undefined;
  if (to === 'paused') return { kind: 'sandbox.pause', status: 'success' };
  if (from === 'pausing') return { kind: 'sandbox.pause', status: 'error' };
  return { kind: 'sandbox.resume', status: 'success' };
}
