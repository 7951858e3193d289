/** What an agent reports about a sandbox, as the columns of its row. */
import { type hostAgent, isSandboxState, type SandboxState, TorporError } from '@torpor/protocol';
import type { SandboxRow } from '../database/schema.ts';
import { storableText } from '../validation/text.ts';

const LOST_REASON = 'The host responds, and does not have this sandbox.';
const INTERRUPTED_REASON = 'Its start was interrupted before the host had it.';
export const SILENT_REASON = 'The host agent does not respond; the sandbox may still be running.';
/** Of a sandbox that was destroyed while its host did not respond. */
export const DEFERRED_DESTROY_REASON =
  'It was destroyed while its host did not respond; the host carries that out when it is back.';

/** The columns that are copied from the agent. */
export interface SandboxReport
  extends Pick<SandboxRow, 'state' | 'reason'>,
    Partial<Pick<SandboxRow, 'host_ip' | 'build_id' | 'timeout_sec'>> {
  /** Versions of kernel, VMM and daemon, as JSON; set once the sandbox has started. */
  readonly versions?: string;
  readonly started_at?: Date;
  readonly ended_at?: Date;
}

/** What is compared of a row with the host's report. */
export type ComparedRow = Pick<
  SandboxRow,
  | 'id'
  | 'team_id'
  | 'state'
  | 'lost_from'
  | 'reason'
  | 'build_id'
  | 'timeout_sec'
  | 'auto_pause'
  | 'created_at'
  | 'started_at'
  | 'last_active_at'
  | 'ended_at'
  | 'revision'
>;

/** What a host reports of the sandbox of a row. */
export interface RowReport {
  readonly row: ComparedRow;
  readonly report: SandboxReport;
}

/**
 * Whether its create has failed. That was reported to its user: it must not start running
 * later, and what the host has of it must be destroyed.
 */
export function hasFailedToStart({
  state,
  started_at,
}: Pick<SandboxRow, 'state' | 'started_at'>): boolean {
  return started_at === null && (state === 'error' || state === 'destroying');
}

/**
 * Whether its users have been told that it does not exist, and its host must still destroy what it
 * has of it: its create failed, or it was destroyed while its host did not respond.
 */
export function mustBeDestroyed(
  row: Pick<SandboxRow, 'state' | 'started_at' | 'ended_at'>,
): boolean {
  return row.state === 'destroying' && (row.started_at === null || row.ended_at !== null);
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
  row: ComparedRow,
  info: hostAgent.SandboxInfo | undefined,
): SandboxReport {
  if (info === undefined) return settledUnknown(row);
  const report = { ...reportOf(info), timeout_sec: info.timeoutSec };
  if (report.state === 'stopped') return { ...report, ended_at: row.ended_at ?? new Date() };
  if (mustBeDestroyed(row) || (hasFailedToStart(row) && report.state !== 'error')) {
    return { state: 'destroying', reason: row.reason, build_id: row.build_id };
  }
  if (report.state !== 'running' || row.started_at !== null) return report;
  return { ...report, started_at: new Date(), versions: JSON.stringify(info.metadata) };
}

/** Whether the row already has the content of the report. */
export function isRecorded(row: ComparedRow, report: SandboxReport): boolean {
  return (
    row.state === report.state &&
    row.reason === report.reason &&
    row.build_id === (report.build_id ?? null)
  );
}

/** The row's new content if the agent does not know the sandbox. */
export function settledUnknown(row: ComparedRow): SandboxReport {
  switch (row.lost_from ?? row.state) {
    case 'creating':
      return { state: 'error', reason: INTERRUPTED_REASON };
    case 'destroying':
      return { state: 'stopped', reason: null, ended_at: row.ended_at ?? new Date() };
    case 'running':
      if (isTimeoutOver(row)) {
        const reason = `It was not used for ${row.timeout_sec} s.`;
        return { state: 'stopped', reason, ended_at: new Date() };
      }
      return { state: 'missing', reason: LOST_REASON };
    default:
      return { state: 'missing', reason: LOST_REASON };
  }
}

/** Whether the host has destroyed it by now, for lack of use, if it has had no use that we do not know. */
function isTimeoutOver({
  auto_pause,
  timeout_sec,
  last_active_at,
  started_at,
  created_at,
}: ComparedRow): boolean {
  if (auto_pause || timeout_sec === 0) return false;
  const lastUse = last_active_at ?? started_at ?? created_at;
  return Date.now() - lastUse.getTime() >= timeout_sec * 1000;
}

/** The row's new content if its host does not respond, for an operation on it that has no result. */
export function silentReport(row: ComparedRow): SandboxReport {
  if (mustBeDestroyed(row)) return { state: row.state, reason: row.reason };
  return { state: 'unreachable', reason: SILENT_REASON };
}

function stateOf({ status }: hostAgent.SandboxInfo): SandboxState {
  if (isSandboxState(status)) return status;
  throw new TorporError(
    'internal_error',
    `The host agent reports the state ${JSON.stringify(status)}, which does not exist.`,
  );
}
