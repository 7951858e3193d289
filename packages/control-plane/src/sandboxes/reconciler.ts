/**
 * Keeps the rows of a host's sandboxes true. The agent is the authority on what a
 * sandbox is doing, the database on which sandboxes there ought to be.
 *
 * The agent's watch stream begins with all that it knows and then tells every
 * change, so a VMM's death is in the database as soon as the agent sees it. A list
 * from time to time catches what a stream could lose. Every step is idempotent: it
 * may run again after a crash at any point.
 *
 * What is found and what is done:
 * - row and agent agree on the id: the agent's state, reason and build are copied, as they
 *   are when they are asked for anew: a report may be late;
 * - the agent does not know a row that is `creating`: the create was interrupted, `error`;
 * - … `destroying`: it is gone, `stopped`;
 * - … any other: `error` with the reason; never deleted;
 * - the agent has a sandbox of a team of ours without a row (a database that was
 *   restored from an old copy): it is adopted, because it may hold somebody's work;
 * - the agent has one whose row is `stopped`: its user destroyed it, so that is done
 *   again, after a grace;
 * - the agent does not answer: its sandboxes are `missing` until it does.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { type hostAgent, type SandboxState, TorporError } from '@torpor/protocol';
import type { Logger } from 'pino';
import type { AuditLog } from '../audit/audit-log.ts';
import type { SandboxChanges, SandboxRow } from '../database/schema.ts';
import type { Host } from '../hosts/host.ts';
import { changesFrom, LOST_REASON, presentInfo } from './host-state.ts';
import type { Operations } from './operations.ts';
import type { SandboxRepository } from './repository.ts';

export interface ReconcilerOptions {
  readonly host: Host;
  readonly sandboxes: SandboxRepository;
  readonly operations: Operations;
  readonly audit: AuditLog;
  readonly logger: Logger;
  readonly timing?: Partial<ReconcilerTiming>;
}

export interface ReconcilerTiming {
  /** A stream without a word for so long is dead; the agent sends a keep-alive every 15 s. */
  readonly silenceMs: number;
  /** How long the agent may be away before its sandboxes are called missing. */
  readonly missingAfterMs: number;
  readonly reconnectMs: number;
  readonly listIntervalMs: number;
  /** How long after its end a destroyed sandbox may still be on the host. */
  readonly destroyGraceMs: number;
}

const DEFAULT_TIMING: ReconcilerTiming = {
  silenceMs: 40_000,
  missingAfterMs: 5_000,
  reconnectMs: 500,
  listIntervalMs: 30_000,
  destroyGraceMs: 60_000,
};

const LIST_TIMEOUT_MS = 15_000;
const DESTROY_TIMEOUT_MS = 2 * 60_000;

export class Reconciler {
  readonly #options: ReconcilerOptions;
  readonly #timing: ReconcilerTiming;
  readonly #stopping = new AbortController();
  /** The stream is open and has said all that the agent knew. */
  #watching = false;
  #lastHeard = Date.now();
  #markedMissing = false;
  #tasks: Promise<unknown> = Promise.resolve();
  /** Mirroring after an operation; kept so that {@link stop} can wait for it. */
  #lastMirror: Promise<void> = Promise.resolve();

  constructor(options: ReconcilerOptions) {
    this.#options = options;
    this.#timing = { ...DEFAULT_TIMING, ...options.timing };
    options.operations.onReleased((info) => {
      this.#lastMirror = this.#lastMirror.then(() => this.#guard(this.#mirror(info)));
    });
  }

  start(): void {
    this.#tasks = Promise.all([this.#watchForever(), this.#listForever(), this.#noticeSilence()]);
  }

  async stop(): Promise<void> {
    this.#stopping.abort(
      new TorporError('host_unavailable', 'The control plane is shutting down.'),
    );
    await this.#tasks;
    await this.#lastMirror;
  }

  async #watchForever(): Promise<void> {
    const { logger } = this.#options;
    while (!this.#stopping.signal.aborted) {
      try {
        await this.#watch();
      } catch (reason) {
        if (this.#stopping.signal.aborted) return;
        logger.warn({ err: TorporError.from(reason) }, 'The host agent is not heard any more');
      }
      await this.#pause(this.#timing.reconnectMs);
    }
  }

  async #watch(): Promise<void> {
    const abort = new AbortController();
    const signal = AbortSignal.any([abort.signal, this.#stopping.signal]);
    const begun = new Date();
    const known = new Map<string, hostAgent.SandboxInfo>();
    let lastEvent = Date.now();
    const watchdog = setInterval(() => {
      if (Date.now() - lastEvent > this.#timing.silenceMs) {
        abort.abort(new TorporError('host_unavailable', 'The host agent has fallen silent.'));
      }
    }, this.#timing.silenceMs / 4);
    try {
      for await (const { event } of this.#options.host.client.watchSandboxes({}, { signal })) {
        lastEvent = Date.now();
        this.#heard();
        if (event.case === 'sandbox' && this.#watching) {
          await this.#guard(this.#mirror(event.value));
        } else if (event.case === 'sandbox') {
          known.set(event.value.sandboxId, event.value);
        } else if (event.case === 'synchronised') {
          this.#watching = true;
          await this.reconcile(known, begun);
        }
      }
    } finally {
      this.#watching = false;
      clearInterval(watchdog);
    }
  }

  #heard(): void {
    this.#lastHeard = Date.now();
    this.#markedMissing = false;
  }

  async #listForever(): Promise<void> {
    while (await this.#pause(this.#timing.listIntervalMs)) {
      await this.#guard(this.#list());
    }
  }

  async #list(): Promise<void> {
    const begun = new Date();
    const { sandboxes } = await this.#options.host.client.listSandboxes(
      {},
      { timeoutMs: LIST_TIMEOUT_MS, signal: this.#stopping.signal },
    );
    this.#heard();
    await this.reconcile(new Map(sandboxes.map((info) => [info.sandboxId, info])), begun);
  }

  async #noticeSilence(): Promise<void> {
    while (await this.#pause(this.#timing.missingAfterMs / 5)) {
      if (this.#watching || this.#markedMissing) continue;
      if (Date.now() - this.#lastHeard < this.#timing.missingAfterMs) continue;
      this.#markedMissing = true;
      await this.#guard(this.#markMissing());
    }
  }

  /** Compares everything that the agent knew at `begun` with the rows, and puts the rows right. */
  async reconcile(known: ReadonlyMap<string, hostAgent.SandboxInfo>, begun: Date): Promise<void> {
    for (const info of known.values()) await this.#guard(this.#mirror(info));
    const rows = await this.#options.sandboxes.listLiving(this.#options.host.id);
    for (const row of rows) {
      if (known.has(row.id) || this.#options.operations.isRunning(row.id)) continue;
      // Written since the agent was asked: its answer says nothing about this row.
      if (row.updated_at >= begun) continue;
      await this.#guard(this.#settleUnknown(row));
    }
  }

  /** A row whose sandbox the agent does not have. */
  async #settleUnknown(row: SandboxRow): Promise<void> {
    const { sandboxes, logger } = this.#options;
    const changes = changesForUnknown(row);
    if (changes === undefined) return;
    await sandboxes.update(row.id, changes, [row.state]);
    logger.warn(
      { sandbox: row.id, was: row.state, is: changes.state },
      'The host does not have this sandbox',
    );
  }

  /** Copies what the agent says of one sandbox into its row. */
  async #mirror(info: hostAgent.SandboxInfo): Promise<void> {
    const { host, sandboxes, operations, logger } = this.#options;
    const id = info.sandboxId;
    if (operations.isRunning(id)) {
      operations.defer(info);
      return;
    }
    const row = await sandboxes.findAnywhere(id);
    if (row === undefined) return this.#meetStranger(info);
    if (row.state === 'stopped') return this.#destroyAgain(row, changesFrom(info).state);
    if (isMirrored(row, changesFrom(info))) return;
    // The report may be late: an operation that has ended since has written newer facts.
    const present = await presentInfo(host, id);
    if (operations.isRunning(id)) {
      operations.defer(info);
      return;
    }
    // Of a sandbox that the agent has forgotten since, only what was final counts.
    if (present === undefined && info.status !== 'stopped' && info.status !== 'error') return;
    const facts = present ?? info;
    const changes = changesFrom(facts);
    if (isMirrored(row, changes)) return;
    await sandboxes.update(
      id,
      {
        ...changes,
        ...(changes.state === 'running' && row.started_at === null ? completed(facts) : {}),
        ...(changes.state === 'stopped' ? { ended_at: new Date() } : {}),
      },
      [row.state],
    );
    logger.info(
      { sandbox: id, was: row.state, is: changes.state, reason: facts.reason },
      'Sandbox changed',
    );
  }

  async #meetStranger(info: hostAgent.SandboxInfo): Promise<void> {
    const { sandboxes, host, audit, logger } = this.#options;
    const id = info.sandboxId;
    const { state } = changesFrom(info);
    if (state === 'stopped' || state === 'destroying' || state === 'creating') return;
    if (!(await sandboxes.teamExists(info.teamId))) {
      logger.warn(
        { sandbox: id, team: info.teamId },
        'The host has a sandbox of a team that is not ours; it is left alone',
      );
      return;
    }
    const now = new Date();
    const adopted = await sandboxes.adopt({
      id,
      team_id: info.teamId,
      host_id: host.id,
      template: info.templateId,
      state,
      reason: info.reason ?? null,
      build_id: info.buildId ?? null,
      vcpus: info.vcpus,
      memory_mb: info.memoryMb,
      disk_size_mb: info.diskSizeMb,
      timeout_sec: info.timeoutSec,
      auto_pause: info.autoPause,
      allow_internet: !info.denyInternet,
      host_ip: info.hostIp ?? null,
      metadata: JSON.stringify(info.labels),
      versions: JSON.stringify(info.metadata),
      created_at: new Date(Number(info.createdAtUnix) * 1000),
      started_at: new Date(Number(info.createdAtUnix) * 1000),
      last_active_at: new Date(Number(info.lastActiveAtUnix) * 1000),
      updated_at: now,
      ended_at: null,
    });
    if (!adopted) return;
    await audit.record({ teamId: info.teamId, action: 'adopt', sandboxId: id, status: 'success' });
    logger.warn({ sandbox: id }, 'Adopted a sandbox that the database did not know');
  }

  /** Its user was told that it is gone. */
  async #destroyAgain(row: SandboxRow, state: SandboxState): Promise<void> {
    const { host, operations, audit, logger } = this.#options;
    if (state === 'stopped' || state === 'destroying' || row.ended_at === null) return;
    if (Date.now() - row.ended_at.getTime() < this.#timing.destroyGraceMs) return;
    logger.warn(
      { sandbox: row.id },
      'The host still has a sandbox that was destroyed; destroying it again',
    );
    await operations.run(row.id, async () => {
      await host.client.destroySandbox({ sandboxId: row.id }, { timeoutMs: DESTROY_TIMEOUT_MS });
      await audit.record({
        teamId: row.team_id,
        action: 'destroy',
        sandboxId: row.id,
        status: 'success',
      });
    });
  }

  async #markMissing(): Promise<void> {
    const { sandboxes, host, operations, logger } = this.#options;
    const reason = 'The host agent does not answer; the sandbox may still be running.';
    for (const row of await sandboxes.listLiving(host.id)) {
      if (row.state === 'error' || row.state === 'missing' || operations.isRunning(row.id))
        continue;
      await sandboxes.update(row.id, { state: 'missing', reason }, [row.state]);
    }
    logger.error('The host agent does not answer; its sandboxes are missing');
  }

  /** Waits, and says whether to go on. */
  async #pause(ms: number): Promise<boolean> {
    await delay(ms, undefined, { signal: this.#stopping.signal }).catch(() => undefined);
    return !this.#stopping.signal.aborted;
  }

  /** One sandbox's trouble, or a moment without database, must not end the reconciler. */
  async #guard(step: Promise<void>): Promise<void> {
    try {
      await step;
    } catch (reason) {
      if (this.#stopping.signal.aborted) return;
      this.#options.logger.error({ err: TorporError.from(reason) }, 'A step of reconciling failed');
    }
  }
}

function isMirrored(row: SandboxRow, changes: ReturnType<typeof changesFrom>): boolean {
  return (
    row.state === changes.state &&
    row.reason === changes.reason &&
    row.build_id === changes.build_id
  );
}

/** What the create would have written, had its process lived to see the end. */
function completed(info: hostAgent.SandboxInfo): SandboxChanges {
  return { started_at: new Date(), versions: JSON.stringify(info.metadata) };
}

function changesForUnknown(row: SandboxRow): SandboxChanges | undefined {
  switch (row.state) {
    case 'stopped':
    case 'error':
      return undefined;
    case 'creating':
      return {
        state: 'error',
        reason: 'The create was interrupted before the host had the sandbox.',
      };
    case 'destroying':
      return { state: 'stopped', reason: null, ended_at: new Date() };
    default:
      return { state: 'error', reason: LOST_REASON };
  }
}
