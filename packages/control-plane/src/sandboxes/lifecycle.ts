/**
 * Pause, resume and fork. None of them belongs to the client's connection. The row
 * takes the transitional state first, then the agent acts, then the row says what the
 * agent says: after a failure too, because only the agent knows how far it came. Of
 * operations on one sandbox that are asked for at once, each sees what the one before
 * has left.
 */
import {
  canTransition,
  type hostAgent,
  isErrorCode,
  newId,
  type rest,
  type SandboxState,
  TorporError,
} from '@torpor/protocol';
import type { SandboxDeed } from '../audit/audit-log.ts';
import type { Principal } from '../auth/api-keys.ts';
import type { SandboxRow } from '../database/schema.ts';
import { publicMessage } from '../errors/public-error.ts';
import { agentCall } from '../hosts/host.ts';
import { findOwn, notInState } from './access.ts';
import { changesFrom, mirrorHost, settledRow } from './host-state.ts';
import { type PhaseTimings, phaseTimings, presentSandbox } from './present.ts';
import type { SandboxServiceParts } from './service.ts';

/** For writing the memory of a large sandbox to a slow disk. */
const PAUSE_TIMEOUT_MS = 10 * 60_000;

type Parts = Omit<SandboxServiceParts, 'templates'>;

interface AgentAnswer {
  readonly sandbox?: hostAgent.SandboxInfo | undefined;
  readonly timings: readonly hostAgent.PhaseTiming[];
}

interface ForkAnswer {
  readonly results: ReadonlyMap<string, hostAgent.ForkResult>;
  readonly timings: PhaseTimings;
}

const IS_PAUSED = { paused: 'There is nothing to do: it is paused already.' };
const IS_RUNNING = { running: 'There is nothing to do: it is running already.' };
const KEEPS_TIMEOUT = {
  running: 'It gets another idle timeout when it is resumed: pause it first.',
};

export class SandboxLifecycle {
  readonly #parts: Parts;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  /**
   * Frees everything that a running sandbox uses but disk space. Throws `not_found`,
   * `invalid_state` for one that does not run, or what the agent says; it runs on then.
   */
  async pause(principal: Principal, id: string): Promise<rest.Sandbox> {
    return this.#operate(principal, id, 'pause', async () => {
      const row = await settledRow(this.#parts, principal, id);
      if (!canTransition(row.state, 'pausing')) throw notInState(row, 'running', IS_PAUSED);
      await this.#parts.sandboxes.update(id, { state: 'pausing' });
      return this.#parts.host.client.pauseSandbox(
        { sandboxId: id },
        { timeoutMs: PAUSE_TIMEOUT_MS },
      );
    });
  }

  /**
   * Lets a paused sandbox run on, or one in state `error` from its last build. Throws
   * `not_found`, `invalid_state`, `no_hosts_available`, or what the agent says; it is
   * paused as before then.
   */
  async resume(
    principal: Principal,
    id: string,
    { timeout_sec: timeoutSec }: rest.ResumeSandbox,
  ): Promise<rest.Sandbox> {
    const { host, sandboxes } = this.#parts;
    return this.#operate(
      principal,
      id,
      'resume',
      async () => {
        const row = await settledRow(this.#parts, principal, id);
        const isResumable = canTransition(row.state, 'resuming') && row.build_id !== null;
        if (!isResumable && row.state !== 'paused') {
          throw notInState(row, 'paused', timeoutSec === undefined ? IS_RUNNING : KEEPS_TIMEOUT);
        }
        const { memoryMb } = await host.describe();
        await sandboxes.reserveAgain(row, 'resuming', memoryMb);
        return host.client.resumeSandbox(
          {
            sandboxId: id,
            ...(timeoutSec === undefined ? {} : { timeoutSec }),
          },
          { timeoutMs: host.guestStartTimeoutMs() },
        );
      },
      {
        last_active_at: new Date(),
        ...(timeoutSec === undefined ? {} : { timeout_sec: timeoutSec }),
      },
    );
  }

  /** Runs `act` as the operation of its sandbox and brings what it leaves into the row. */
  async #operate(
    principal: Principal,
    id: string,
    action: 'pause' | 'resume',
    act: () => Promise<AgentAnswer>,
    changes: { last_active_at?: Date; timeout_sec?: number } = {},
  ): Promise<rest.Sandbox> {
    const { sandboxes, operations, audit, metrics, logger } = this.#parts;
    await findOwn(sandboxes, principal, id);
    return operations.run(id, async () => {
      const finished = metrics.operationDuration.startTimer({ operation: action });
      const before = await findOwn(sandboxes, principal, id);
      const entry = { teamId: principal.teamId, actor: principal, action, sandboxId: id } as const;
      try {
        const answer = await agentCall(act);
        const info = requireInfo(answer);
        const row = await sandboxes.update(id, { ...changesFrom(info), ...changes });
        await audit.record({ ...entry, status: 'success' });
        finished({ outcome: 'success' });
        logger.info({ sandbox: id, is: info.status }, `Sandbox ${action}d`);
        return presentSandbox(row ?? before, phaseTimings(answer.timings));
      } catch (reason) {
        const error = TorporError.from(reason);
        finished({ outcome: error.code });
        await this.#settleFailure(entry, error);
        throw error;
      }
    });
  }

  /** After a failure: if the row had been given a transitional state, it gets the one that the agent sees. */
  async #settleFailure(entry: Omit<SandboxDeed, 'status'>, error: TorporError): Promise<void> {
    const { sandboxes, audit, logger } = this.#parts;
    const id = entry.sandboxId;
    const moving: readonly SandboxState[] = ['pausing', 'resuming'];
    const row = await sandboxes.findAnywhere(id);
    if (row === undefined || !moving.includes(row.state)) return;
    logger.error({ sandbox: id, err: error }, `Sandbox could not be ${entry.action}d`);
    try {
      await mirrorHost(this.#parts, id);
    } catch (reason) {
      // The reconciler will copy it as soon as the agent answers.
      logger.warn({ sandbox: id, err: TorporError.from(reason) }, 'The state of a sandbox is open');
    }
    await audit.record({ ...entry, status: 'error', metadata: { code: error.code } });
  }

  /**
   * Copies of a running or paused sandbox, which goes on as it was. Resolves with a
   * result per copy: one that fails does not keep the others from being made. Throws
   * `not_found` and `invalid_state`; nothing has been made then.
   */
  async fork(
    principal: Principal,
    id: string,
    request: rest.ForkSandbox,
  ): Promise<rest.ForkResult> {
    const { host, sandboxes, operations } = this.#parts;
    await findOwn(sandboxes, principal, id);
    const source = await operations.run(id, async () => {
      const row = await settledRow(this.#parts, principal, id);
      if (canTransition(row.state, 'snapshotting')) return row;
      throw notInState(row, 'running or paused');
    });
    const { memoryMb } = await host.describe();
    const timeoutSec = request.timeout_sec ?? source.timeout_sec;
    const answer = Promise.withResolvers<ForkAnswer>();
    // Each copy is told of a failed call by its own operation.
    answer.promise.catch(() => undefined);
    const reservations: Promise<SandboxRow>[] = [];
    const children = Array.from({ length: request.count }, () => {
      const childId = newId('sandbox');
      const reserved = Promise.withResolvers<SandboxRow>();
      reservations.push(reserved.promise);
      return operations.run(childId, async () => {
        sandboxes
          .reserve(childRow(source, childId, timeoutSec), memoryMb)
          .then(reserved.resolve, reserved.reject);
        return this.#bearChild(principal, await reserved.promise, answer.promise);
      });
    });
    const outcomes = Promise.allSettled(children);
    const rows = (await Promise.allSettled(reservations))
      .filter((result) => result.status === 'fulfilled')
      .map(({ value }) => value);
    if (rows.length === 0) answer.resolve({ results: new Map(), timings: [] });
    else answer.resolve(this.#forkOnHost(source.id, rows, timeoutSec));
    return {
      children: (await outcomes).map((outcome) => {
        if (outcome.status === 'fulfilled') return { sandbox: outcome.value };
        const error = TorporError.from(outcome.reason);
        return { error: { code: error.code, message: publicMessage(error) } };
      }),
      timings: await answer.promise.then(
        ({ timings }) => timings,
        () => [],
      ),
    };
  }

  async #forkOnHost(
    sourceId: string,
    rows: readonly SandboxRow[],
    timeoutSec: number,
  ): Promise<ForkAnswer> {
    const finished = this.#parts.metrics.operationDuration.startTimer({ operation: 'fork' });
    try {
      const { children, timings } = await agentCall(() =>
        this.#parts.host.client.forkSandbox(
          { sandboxId: sourceId, childIds: rows.map(({ id }) => id), timeoutSec },
          { timeoutMs: this.#parts.host.guestStartTimeoutMs(rows.length) },
        ),
      );
      finished({ outcome: 'success' });
      return {
        results: new Map(children.map((child) => [child.sandboxId, child])),
        timings: phaseTimings(timings),
      };
    } catch (reason) {
      const error = TorporError.from(reason);
      finished({ outcome: error.code });
      this.#parts.logger.error({ sandbox: sourceId, err: error }, 'Sandbox could not be forked');
      throw error;
    }
  }

  /** The operation of one copy: waits for what the agent says of it. */
  async #bearChild(
    principal: Principal,
    row: SandboxRow,
    answer: Promise<ForkAnswer>,
  ): Promise<rest.Sandbox> {
    const { sandboxes, audit } = this.#parts;
    const entry = {
      teamId: row.team_id,
      actor: principal,
      action: 'fork',
      sandboxId: row.id,
    } as const;
    try {
      const result = (await answer).results.get(row.id);
      const info = childInfo(result);
      const now = new Date();
      const running = await sandboxes.update(row.id, {
        ...changesFrom(info),
        versions: JSON.stringify(info.metadata),
        started_at: now,
        last_active_at: now,
      });
      await audit.record({ ...entry, status: 'success' });
      return presentSandbox(running ?? row);
    } catch (reason) {
      const error = TorporError.from(reason);
      await sandboxes.update(row.id, { state: 'error', reason: publicMessage(error) });
      await audit.record({ ...entry, status: 'error', metadata: { code: error.code } });
      throw new TorporError(
        error.code,
        `Sandbox ${row.id} could not be made: ${publicMessage(error)}`,
        { cause: error },
      );
    }
  }
}

function requireInfo({ sandbox }: AgentAnswer): hostAgent.SandboxInfo {
  if (sandbox !== undefined) return sandbox;
  throw new TorporError('internal_error', 'The host agent answered without the sandbox.');
}

/** The copy that the agent has made. Throws what it says otherwise. */
function childInfo(result: hostAgent.ForkResult | undefined): hostAgent.SandboxInfo {
  if (result?.outcome.case === 'sandbox') return result.outcome.value;
  const code = result?.outcome.case === 'error' ? result.outcome.value.code : '';
  throw new TorporError(
    isErrorCode(code) ? code : 'internal_error',
    result?.message || 'The host agent said nothing of it.',
  );
}

function childRow(source: SandboxRow, id: string, timeoutSec: number) {
  const now = new Date();
  return {
    id,
    team_id: source.team_id,
    host_id: source.host_id,
    template: source.template,
    state: 'creating' as const,
    reason: null,
    vcpus: source.vcpus,
    memory_mb: source.memory_mb,
    disk_size_mb: source.disk_size_mb,
    timeout_sec: timeoutSec,
    auto_pause: source.auto_pause,
    allow_internet: source.allow_internet,
    build_id: null,
    host_ip: null,
    metadata: JSON.stringify(source.metadata),
    versions: '{}',
    created_at: now,
    started_at: null,
    last_active_at: null,
    updated_at: now,
    ended_at: null,
  };
}
