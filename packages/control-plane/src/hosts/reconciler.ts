/**
 * Keeps the rows of a host's sandboxes up to date. The agent is the authority on what a
 * sandbox is doing, the database on which sandboxes should exist. Every step is
 * idempotent: it may run again after a crash at any point, and in several control planes
 * at once. A row that an operation of any control plane has locked is left alone: the
 * operation writes what the agent says, and if it was abandoned, its recovery does.
 *
 * What is found and what is done:
 * - both the row and the agent have the sandbox: the agent's state, reason and build are
 *   copied, from a second query, because a report may be late;
 * - the agent does not know a row that is `creating`: the create was interrupted, `error`;
 * - … `destroying`: it no longer exists, `stopped`;
 * - … any other: `error` with the reason; never deleted;
 * - the agent has a sandbox without a row, of an existing team that may use the host (a
 *   database that was restored from an old copy): it is adopted, because it may contain a
 *   user's work;
 * - the agent has a sandbox that was given up with a deleted host, which this machine was before
 *   it joined again: it is destroyed, because its user was told so;
 * - the agent has a sandbox whose row is on another host: nothing;
 * - the agent has one whose row is `stopped`: it was destroyed, so it is destroyed again,
 *   after a grace period;
 * - the agent has one whose create failed: that was reported to its user, so it is
 *   destroyed. Its row is `destroying` until the host has done that;
 * - the agent does not respond: its sandboxes are `missing` until it does.
 */
import { type hostAgent, TorporError } from '@torpor/protocol';
import type { Logger } from 'pino';
import type { NewSandboxRow, SandboxRow } from '../database/schema.ts';
import type { OperationLocks } from '../operations/locks.ts';
import type { HostConnection } from './connection.ts';
import {
  hasFailedToStart,
  isRecorded,
  reportOf,
  type SandboxReport,
  SILENT_REASON,
  settledReport,
  settledUnknown,
} from './report.ts';

/** How long a destroyed sandbox may still be on the host. */
const DEFAULT_DESTROY_GRACE_MS = 60_000;

/** The access to rows (sandboxes/repository.ts). */
export interface ReconciledRows {
  findById(id: string): Promise<SandboxRow | undefined>;
  listLiving(hostId: string): Promise<SandboxRow[]>;
  /** Whether it was given up with a deleted host. */
  wasGivenUp(id: string): Promise<boolean>;
  /** Whether the host and the team exist, and the host may have sandboxes of the team. */
  mayHost(hostId: string, teamId: string): Promise<boolean>;
  /** Writes nothing and returns false if an operation has locked the row, or it was written since it was read. */
  recordReport(row: SandboxRow, report: SandboxReport): Promise<boolean>;
  markMissing(row: SandboxRow, reason: string): Promise<boolean>;
  adopt(row: NewSandboxRow): Promise<boolean>;
}

export interface ReconcilerParts {
  readonly host: HostConnection;
  readonly rows: ReconciledRows;
  readonly locks: OperationLocks;
  readonly logger: Logger;
  /** Makes the host destroy what it still has of a sandbox that is stopped, or whose create failed. */
  readonly destroyAgain: (row: SandboxRow) => Promise<void>;
  /** Makes the host destroy what it still has of a sandbox that was given up with a deleted host. */
  readonly destroyGivenUp: (info: hostAgent.SandboxInfo) => Promise<void>;
  readonly destroyGraceMs?: number | undefined;
}

export class Reconciler implements AsyncDisposable {
  readonly #parts: ReconcilerParts;
  readonly #destroyGraceMs: number;
  /** The last reports of sandboxes that an operation of this process has locked. */
  readonly #deferred = new Map<string, hostAgent.SandboxInfo>();
  #lastDeferred: Promise<void> = Promise.resolve();
  /** Sandboxes that the host is destroying at our request. */
  readonly #destroying = new Set<string>();
  readonly #unsubscribe: () => void;

  constructor(parts: ReconcilerParts) {
    this.#parts = parts;
    this.#destroyGraceMs = parts.destroyGraceMs ?? DEFAULT_DESTROY_GRACE_MS;
    this.#unsubscribe = parts.locks.onReleased((id) => {
      const info = this.#deferred.get(id);
      this.#deferred.delete(id);
      if (info === undefined) return;
      this.#lastDeferred = this.#lastDeferred.then(() => this.#attempt(this.record(info)));
    });
  }

  /** Records no more deferred reports. Resolves when none is being recorded. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#unsubscribe();
    await this.#lastDeferred;
  }

  /** The rows that the host should know. Must be read before the host is asked for its list. */
  expected(): Promise<readonly SandboxRow[]> {
    return this.#parts.rows.listLiving(this.#parts.host.id);
  }

  /**
   * Compares everything that the agent knows with the rows that were `expected`, and
   * corrects the rows. A row that has been written since has another revision: for it the
   * agent's list is out of date, and nothing is written.
   */
  async reconcile(
    expected: readonly SandboxRow[],
    known: ReadonlyMap<string, hostAgent.SandboxInfo>,
  ): Promise<void> {
    for (const info of known.values()) await this.#attempt(this.record(info));
    for (const row of expected) {
      if (!known.has(row.id)) await this.#attempt(this.#settleUnknown(row));
    }
  }

  /** Copies what the agent reports of one sandbox into its row. */
  async record(info: hostAgent.SandboxInfo): Promise<void> {
    const { host, rows, locks, logger } = this.#parts;
    const id = info.sandboxId;
    if (locks.isBusyHere(id)) {
      this.#deferred.set(id, info);
      return;
    }
    const row = await rows.findById(id);
    if (row?.host_id !== host.id && (await rows.wasGivenUp(id))) return this.#destroyGivenUp(info);
    if (row === undefined) return this.#adopt(info);
    // A host decides about its own sandboxes only, whatever it reports.
    if (row.host_id !== host.id) return;
    if (row.state === 'stopped') return this.#destroyAgain(row, info);
    if (row.state === 'destroying' && hasFailedToStart(row))
      return this.#destroyFailedCreate(row, info);
    if (isRecorded(row, reportOf(info))) return;
    // The report may be late: an operation that has completed since has written newer facts.
    const present = await host.fetchSandboxInfo(id);
    // If the agent no longer knows the sandbox, only a final state counts.
    if (present === undefined && info.status !== 'stopped' && info.status !== 'error') return;
    const report = settledReport(row, present ?? info);
    if (isRecorded(row, report)) return;
    if (await rows.recordReport(row, report)) {
      const { state: is, reason } = report;
      logger.info({ sandbox: id, was: row.state, is, reason }, 'Sandbox changed');
    } else if (locks.isBusyHere(id)) this.#deferred.set(id, info);
  }

  async markAllMissing(): Promise<void> {
    const { rows, host, logger } = this.#parts;
    for (const row of await rows.listLiving(host.id)) {
      if (row.state === 'error' || row.state === 'missing' || hasFailedToStart(row)) continue;
      await rows.markMissing(row, SILENT_REASON);
    }
    logger.error(
      { host: host.id },
      'Host agent did not respond; its sandboxes were marked as missing',
    );
  }

  /** A row whose sandbox the agent does not have. */
  async #settleUnknown(row: SandboxRow): Promise<void> {
    if (row.state === 'error') return;
    const report = settledUnknown(row.state);
    if (!(await this.#parts.rows.recordReport(row, report))) return;
    this.#parts.logger.warn(
      { sandbox: row.id, was: row.state, is: report.state },
      'Sandbox not found on its host',
    );
  }

  async #adopt(reported: hostAgent.SandboxInfo): Promise<void> {
    const { rows, host, logger } = this.#parts;
    // The report may be late, and nothing corrects the facts of a row that has been adopted.
    const info = await host.fetchSandboxInfo(reported.sandboxId);
    if (info === undefined || info.sandboxId !== reported.sandboxId) return;
    const { state } = reportOf(info);
    if (state === 'stopped' || state === 'destroying' || state === 'creating') return;
    if (!(await rows.mayHost(host.id, info.teamId))) {
      logger.warn(
        { sandbox: info.sandboxId, team: info.teamId },
        'Sandbox found on the host that no team may have there; not adopted',
      );
      return;
    }
    // The report may be late, and nothing corrects the facts of a row that has been adopted.
    const present = await host.fetchSandboxInfo(info.sandboxId);
    if (present === undefined || !(await rows.adopt(adoptedRow(host.id, present)))) return;
    logger.warn({ sandbox: info.sandboxId }, 'Unknown sandbox adopted');
  }

  /** For a sandbox that was reported to its user as destroyed. */
  #destroyAgain(row: SandboxRow, info: hostAgent.SandboxInfo): void {
    const { state } = reportOf(info);
    if (state === 'stopped' || state === 'destroying' || row.ended_at === null) return;
    if (Date.now() - row.ended_at.getTime() < this.#destroyGraceMs) return;
    this.#parts.logger.warn(
      { sandbox: row.id },
      'Destroyed sandbox found on the host; destroying it again',
    );
    this.#destroy(row);
  }

  /** For the leftovers of a failed create that could not be removed then. */
  async #destroyFailedCreate(row: SandboxRow, info: hostAgent.SandboxInfo): Promise<void> {
    const { state } = reportOf(info);
    if (state === 'destroying') return;
    if (state !== 'stopped') return this.#destroy(row);
    await this.#settleUnknown(row);
  }

  #destroyGivenUp(info: hostAgent.SandboxInfo): void {
    const { state } = reportOf(info);
    if (state === 'stopped' || state === 'destroying') return;
    const { logger, host, destroyGivenUp } = this.#parts;
    const fields = { sandbox: info.sandboxId, host: host.id };
    logger.warn(fields, 'A sandbox that was given up with a deleted host was found; destroying it');
    this.#inBackground(info.sandboxId, () => destroyGivenUp(info));
  }

  #destroy(row: SandboxRow): void {
    this.#inBackground(row.id, () => this.#parts.destroyAgain(row));
  }

  /** It may take minutes, and must not delay other reports. */
  #inBackground(id: string, destroy: () => Promise<void>): void {
    if (this.#destroying.has(id)) return;
    this.#destroying.add(id);
    void this.#attempt(destroy()).finally(() => this.#destroying.delete(id));
  }

  /** An error with one sandbox must not prevent the others from being reconciled. */
  async #attempt(step: Promise<void>): Promise<void> {
    try {
      await step;
    } catch (reason) {
      const err = TorporError.from(reason);
      this.#parts.logger.error({ err }, 'Reconciliation step failed; will retry');
    }
  }
}

function adoptedRow(hostId: string, info: hostAgent.SandboxInfo): NewSandboxRow {
  const { state, reason, build_id, host_ip } = reportOf(info);
  const createdAt = fromUnix(info.createdAtUnix);
  return {
    id: info.sandboxId,
    team_id: info.teamId,
    host_id: hostId,
    template: info.templateName ?? info.templateId,
    state,
    reason,
    build_id: build_id ?? null,
    vcpus: info.vcpus,
    memory_mb: info.memoryMb,
    disk_size_mb: info.diskSizeMb,
    timeout_sec: info.timeoutSec,
    auto_pause: info.autoPause,
    allow_internet: !info.denyInternet,
    host_ip: host_ip ?? null,
    metadata: JSON.stringify(info.labels),
    versions: JSON.stringify(info.metadata),
    created_at: createdAt,
    // A failed create would be assumed of a sandbox in state `error` that has no start.
    started_at: info.startedAtUnix === undefined ? createdAt : fromUnix(info.startedAtUnix),
    last_active_at: fromUnix(info.lastActiveAtUnix),
    updated_at: new Date(),
    ended_at: null,
  };
}

function fromUnix(seconds: bigint): Date {
  return new Date(Number(seconds) * 1000);
}
