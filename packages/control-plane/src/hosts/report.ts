/** What an agent reports about a sandbox, as the columns of its row. */
import { type hostAgent, isSandboxState, type SandboxState, TorporError } from '@torpor/protocol';
import type { SandboxRow } from '../database/schema.ts';
import { storableText } from '../validation/text.ts';

const LOST_REASON = 'The host no longer has this sandbox.';
const INTERRUPTED_REASON = 'Its start was interrupted before the host had it.';
export const SILENT_REASON = 'The host agent does not respond; the sandbox may still be running.';

/** The columns that are copied from the agent. */
export interface SandboxReport
  extends Pick<SandboxRow, 'state' | 'reason'>,
    Partial<Pick<SandboxRow, 'host_ip' | 'build_id' | 'timeout_sec'>> {
  /** Versions of kernel, VMM and daemon, as JSON; set once the sandbox has started. */
  readonly versions?: string;
  readonly started_at?: Date;
  readonly ended_at?: Date;
}

/**
 * Whether its create has failed. That was reported to its user: it must not start running
 * later, and what the host has of it must be destroyed.
 */
export function hasFailedToStart({ state, started_at }: SandboxRow): boolean {
  return started_at === null && (state === 'error' || state === 'destroying');
}

/** Whether its create ended before the host had anything of it. */
export function neverReachedHost({ reason }: SandboxRow): boolean {
  return reason === INTERRUPTED_REASON;
}

/** Throws `internal_error` for a state that does not exist. */
export function reportOf(info: hostAgent.SandboxInfo): SandboxReport {
  return {
    state: stateOf(info),
    reason: info.reason === undefined ? null : storableText(info.reason),
    host_ip: info.hostIp ?? null,
    build_id: info.buildId ?? null,
  };
}

/**
 * The row's new content by the agent's report, with what the abandoned operation would have
 * written. `info` is undefined if the agent does not know the sandbox.
 */
export function settledReport(
  row: SandboxRow,
  info: hostAgent.SandboxInfo | undefined,
): SandboxReport {
  if (info === undefined) return settledUnknown(row.state);
  const report = { ...reportOf(info), timeout_sec: info.timeoutSec };
  if (report.state === 'stopped') return { ...report, ended_at: new Date() };
  if (hasFailedToStart(row) && report.state !== 'error') {
    return { state: 'destroying', reason: row.reason, build_id: row.build_id };
  }
  if (report.state !== 'running' || row.started_at !== null) return report;
  return { ...report, started_at: new Date(), versions: JSON.stringify(info.metadata) };
}

/** Whether the row already has the content of the report. */
export function isRecorded(row: SandboxRow, report: SandboxReport): boolean {
  return (
    row.state === report.state &&
    row.reason === report.reason &&
    row.build_id === (report.build_id ?? null)
  );
}

/** The row's new content if the agent does not know the sandbox. */
export function settledUnknown(state: SandboxState): SandboxReport {
  switch (state) {
    case 'creating':
      return { state: 'error', reason: INTERRUPTED_REASON };
    case 'destroying':
      return { state: 'stopped', reason: null, ended_at: new Date() };
    default:
      return { state: 'error', reason: LOST_REASON };
  }
}

function stateOf({ status }: hostAgent.SandboxInfo): SandboxState {
  if (isSandboxState(status)) return status;
  throw new TorporError(
    'internal_error',
    `The host agent reports the state ${JSON.stringify(status)}, which does not exist.`,
  );
}
