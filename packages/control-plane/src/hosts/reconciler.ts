/**
 * Keeps the rows of a host's sandboxes up to date. The agent is the authority on what a
 * sandbox is doing, the database on which sandboxes should exist. Of several control planes one
 * at a time does this for a host (hosts/claims.ts); every step is idempotent, so that it may
 * run again after a crash at any point, and two at once do no harm. A row that an operation of
 * any control plane has locked is left alone: the operation writes what the agent says, and if
 * it was abandoned, its recovery does. Then it is looked at again.
 *
 * What is found and what is done:
 * - both the row and the agent have the sandbox: the agent's state, reason and build are
 *   copied; also over a transitional state that no operation is behind;
 * - the agent does not know a row that is `creating`: the create was interrupted, `error`;
 * - … `destroying`: it no longer exists, `stopped`;
 * - … `running`, and its idle timeout has passed: the agent has destroyed it, `stopped`;
 * - … `error`: it stays so;
 * - … any other: `missing`; never deleted, and found again if the agent has it again;
 * - the agent has a sandbox without a row, of an existing team that may use the host (a
 *   database that was restored from an old copy): it is adopted, because it may contain a
 *   user's work; one of another team, or of none, is left alone and reported in the log;
 * - the agent has a sandbox that was given up with a deleted host, which this machine was before
 *   it joined again: it is destroyed, because its user was told so;
 * - the agent has a sandbox whose row is on another host: nothing;
 * - the agent has one whose row is `stopped`, on whichever host: it was destroyed, so it is
 *   destroyed again, after a grace period;
 * - the agent has one whose create failed, or that was destroyed while the host did not
 *   respond: its user was told that it does not exist, so it is destroyed. Its row is
 *   `destroying` until the host has done that;
 * - the agent does not respond: its sandboxes are `unreachable` until it does. Those that are
 *   `error` or `missing` stay so.
 */
import { type hostAgent, TorporError } from '@torpor/protocol';
import type { Logger } from 'pino';
import type { NewSandboxRow, SandboxRow } from '../database/schema.ts';
import type { OperationLocks } from '../operations/locks.ts';
import type { HostConnection } from './connection.ts';
import {
  type ComparedRow,
  isRecorded,
  mustBeDestroyed,
  type RowReport,
  reportOf,
  SILENT_REASON,
  settledReport,
  settledUnknown,
} from './report.ts';

/** How long a destroyed sandbox may still be on the host. */
const DEFAULT_DESTROY_GRACE_MS = 60_000;

/** How soon a sandbox is looked at again that another control plane had locked. */
const RETRY_MS = 500;

/** The access to rows (sandboxes/repository.ts). */
export interface ReconciledRows {
  findById(id: string): Promise<SandboxRow | undefined>;
  pageLiving(hostId: string, afterId: string): Promise<ComparedRow[]>;
  /** Whether it was given up with a deleted host. */
  wasGivenUp(id: string): Promise<boolean>;
  /** Whether the host and the team exist, and the host may have sandboxes of the team. */
  mayHost(hostId: string, teamId: string): Promise<boolean>;
  /** Returns the ids of those that were written: not those that an operation has locked, nor those that were written since they were read. */
  recordReports(changes: readonly RowReport[]): Promise<ReadonlySet<string>>;
  markUnreachable(hostId: string, controlPlane: string, reason: string): Promise<boolean>;
  adopt(row: NewSandboxRow): Promise<boolean>;
}

export interface ReconcilerParts {
  readonly host: HostConnection;
  /** The id of this control plane. */
  readonly controlPlane: string;
  readonly rows: ReconciledRows;
  readonly locks: OperationLocks;
  readonly logger: Logger;
  /** Makes the host destroy what it still has of a sandbox that is stopped, or that it must destroy. */
  readonly destroyAgain: (row: SandboxRow) => Promise<unknown>;
  /** Makes the host destroy what it still has of a sandbox that was given up with a deleted host. */
  readonly destroyGivenUp: (info: hostAgent.SandboxInfo) => Promise<void>;
  readonly destroyGraceMs?: number | undefined;
}

/** How many changes are written at once. */
const BATCH_SIZE = 500;

/** The rows that a host should know, by id. */
export type ExpectedRows = ReadonlyMap<string, ComparedRow>;

export class Reconciler implements AsyncDisposable {
  readonly #parts: ReconcilerParts;
  readonly #destroyGraceMs: number;
  /** The last reports of sandboxes that an operation had locked. */
  readonly #deferred = new Map<string, hostAgent.SandboxInfo>();
  #lastDeferred: Promise<void> = Promise.resolve();
  /** Sandboxes that the host is destroying at our request. */
  readonly #destroying = new Set<string>();
  /** Sandboxes that were found on the host, and reported as not adopted. */
  readonly #foreign = new Set<string>();
  readonly #unsubscribe: () => void;
  readonly #retry: NodeJS.Timeout;

  constructor(parts: ReconcilerParts) {
    this.#parts = parts;
    this.#destroyGraceMs = parts.destroyGraceMs ?? DEFAULT_DESTROY_GRACE_MS;
    this.#unsubscribe = parts.locks.onReleased((id) => this.#recordDeferred(id));
    // The locks of other control planes tell nobody when they are released.
    this.#retry = setInterval(() => {
      for (const id of this.#deferred.keys()) this.#recordDeferred(id);
    }, RETRY_MS).unref();
  }

  /** Records no more deferred reports. Resolves when none is being recorded. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#unsubscribe();
    clearInterval(this.#retry);
    await this.#lastDeferred;
  }

  /** The rows that the host should know. Must be read before the host is asked for its list. */
  async expected(): Promise<ExpectedRows> {
    const { rows, host } = this.#parts;
    const expected = new Map<string, ComparedRow>();
    let afterId = '';
    for (;;) {
      const page = await rows.pageLiving(host.id, afterId);
      for (const row of page) expected.set(row.id, row);
      const last = page.at(-1);
      if (last === undefined) return expected;
      afterId = last.id;
    }
  }

  /**
   * Compares everything that the agent knows with the rows that were `expected`, and corrects
   * the rows that differ. A row that has been written since has another revision: for it the
   * agent's list is out of date, and nothing is written.
   */
  async reconcile(
    expected: ExpectedRows,
    known: ReadonlyMap<string, hostAgent.SandboxInfo>,
  ): Promise<void> {
    const changes: RowReport[] = [];
    for (const info of known.values()) {
      const row = expected.get(info.sandboxId);
      const isSimple = row !== undefined && !mustBeDestroyed(row);
      await this.#attempt(async () => {
        if (isSimple) changes.push(...this.#changeOf(row, info));
        else await this.record(info);
      });
    }
    for (const row of expected.values()) {
      if (known.has(row.id) || row.state === 'error' || row.state === 'missing') continue;
      changes.push({ row, report: settledUnknown(row) });
    }
    for (let begin = 0; begin < changes.length; begin += BATCH_SIZE) {
      // What was written or locked meanwhile is compared again with the next list.
      await this.#write(changes.slice(begin, begin + BATCH_SIZE));
    }
  }

  /** Writes changes together, or one by one if one of them cannot be written. Returns the ids of those that were. */
  async #write(changes: readonly RowReport[]): Promise<ReadonlySet<string>> {
    if (changes.length === 0) return new Set();
    const { rows, logger } = this.#parts;
    let recorded: ReadonlySet<string>;
    try {
      recorded = await rows.recordReports(changes);
    } catch (reason) {
      if (changes.length > 1) return this.#writeEach(changes);
      this.#failed(reason);
      return new Set();
    }
    for (const { row, report } of changes) {
      if (!recorded.has(row.id)) continue;
      const fields = { sandbox: row.id, was: row.state, is: report.state, reason: report.reason };
      if (report.state === 'missing') logger.warn(fields, 'Sandbox not found on its host');
      else logger.info(fields, 'Sandbox changed');
    }
    return recorded;
  }

  async #writeEach(changes: readonly RowReport[]): Promise<ReadonlySet<string>> {
    const recorded = new Set<string>();
    for (const change of changes) {
      for (const id of await this.#write([change])) recorded.add(id);
    }
    return recorded;
  }

  /** None if the row has what is reported, or an operation of this process has locked it. */
  #changeOf(row: ComparedRow, info: hostAgent.SandboxInfo): RowReport[] {
    if (isRecorded(row, reportOf(info))) return [];
    if (this.#parts.locks.isBusyHere(row.id)) {
      this.#deferred.set(row.id, info);
      return [];
    }
    const report = settledReport(row, info);
    return isRecorded(row, report) ? [] : [{ row, report }];
  }

  /** Copies what the agent reports of one sandbox into its row. */
  async record(info: hostAgent.SandboxInfo): Promise<void> {
    const { host, rows, locks } = this.#parts;
    const id = info.sandboxId;
    if (locks.isBusyHere(id)) {
      this.#deferred.set(id, info);
      return;
    }
    const row = await rows.findById(id);
    if (row?.host_id !== host.id && (await rows.wasGivenUp(id))) return this.#destroyGivenUp(info);
    if (row === undefined) return this.#adopt(info);
    if (row.state === 'stopped') return this.#destroyAgain(row, info);
    // A host decides about its own sandboxes only, whatever it reports.
    if (row.host_id !== host.id) return;
    if (mustBeDestroyed(row)) return this.#destroyPending(row, info);
    if (isRecorded(row, reportOf(info))) return;
    // The report may be late: an operation that has completed since has written newer facts.
    const present = await host.fetchSandboxInfo(id);
    // If the agent no longer knows the sandbox, only a final state counts.
    if (present === undefined && info.status !== 'stopped' && info.status !== 'error') return;
    const current = present ?? info;
    const changes = this.#changeOf(row, current);
    const recorded = await this.#write(changes);
    if (recorded.size < changes.length) this.#deferred.set(id, current);
  }

  /** Marks the sandboxes of the host, which does not respond. */
  async markUnreachable(): Promise<void> {
    const { rows, host, controlPlane } = this.#parts;
    while (await rows.markUnreachable(host.id, controlPlane, SILENT_REASON));
  }

  #recordDeferred(id: string): void {
    const info = this.#deferred.get(id);
    if (info === undefined || this.#parts.locks.isBusyHere(id)) return;
    this.#deferred.delete(id);
    this.#lastDeferred = this.#lastDeferred.then(() => this.#attempt(() => this.record(info)));
  }

  async #adopt(reported: hostAgent.SandboxInfo): Promise<void> {
    const { rows, host, logger } = this.#parts;
    const { sandboxId: sandbox } = reported;
    // The report may be late, and nothing corrects the facts of a row that has been adopted.
    const info = await host.fetchSandboxInfo(sandbox);
    if (info === undefined || info.sandboxId !== sandbox) return;
    const { state } = reportOf(info);
    if (state === 'stopped' || state === 'destroying' || state === 'creating') return;
    if (await rows.mayHost(host.id, info.teamId)) {
      if (!(await rows.adopt(adoptedRow(host.id, info)))) return;
      logger.warn({ sandbox }, 'Unknown sandbox adopted');
    } else if (!this.#foreign.has(sandbox)) {
      this.#foreign.add(sandbox);
      const fields = { sandbox, team: info.teamId };
      logger.warn(fields, 'Sandbox found on the host that no team may have there; not adopted');
    }
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

  /** For what the host still has of a sandbox of which its users were told that it does not exist. */
  async #destroyPending(row: SandboxRow, info: hostAgent.SandboxInfo): Promise<void> {
    const { state } = reportOf(info);
    if (state === 'destroying') return;
    if (state !== 'stopped') return this.#destroy(row);
    await this.#write([{ row, report: settledUnknown(row) }]);
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
  #inBackground(id: string, destroy: () => Promise<unknown>): void {
    if (this.#destroying.has(id)) return;
    this.#destroying.add(id);
    void this.#attempt(destroy).finally(() => this.#destroying.delete(id));
  }

  /** An error with one sandbox must not prevent the others from being reconciled. */
  async #attempt(step: () => Promise<unknown>): Promise<void> {
    try {
      await step();
    } catch (reason) {
      this.#failed(reason);
    }
  }

  #failed(reason: unknown): void {
    const err = TorporError.from(reason);
    this.#parts.logger.error({ err }, 'Reconciliation step failed; will retry');
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
