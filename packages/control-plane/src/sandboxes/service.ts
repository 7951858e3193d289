/**
 * Creates, finds and destroys sandboxes. An operation that changes something does
 * not belong to the client's connection: it runs to its end when the client is
 * gone. The row is written first, so that a crash at any step leaves something that
 * the reconciler can put right.
 */
import {
  assertTransition,
  isSandboxState,
  newId,
  type rest,
  SANDBOX_STATES,
  type SandboxState,
  TorporError,
} from '@torpor/protocol';
import type { Logger } from 'pino';
import type { AuditLog } from '../audit/audit-log.ts';
import type { Principal } from '../auth/api-keys.ts';
import type { SandboxRow } from '../database/schema.ts';
import { publicMessage } from '../errors/public-error.ts';
import { agentCall, type Host } from '../hosts/host.ts';
import type { Metrics } from '../observability/metrics.ts';
import type { TemplateRepository } from '../templates/repository.ts';
import { findOwn, notInState } from './access.ts';
import { decodeCursor, encodeCursor } from './cursor.ts';
import { settledRow } from './host-state.ts';
import { checkRequest, type Shape, shapeOf } from './limits.ts';
import type { Operations } from './operations.ts';
import { phaseTimings, presentSandbox } from './present.ts';
import type { SandboxRepository } from './repository.ts';

const DESTROY_TIMEOUT_MS = 2 * 60_000;
const AGENT_CALL_TIMEOUT_MS = 15_000;
const ACTIVITY_RESOLUTION_MS = 5_000;

export interface ListRequest {
  readonly limit: number;
  readonly next_token?: string | undefined;
  readonly state?: string | undefined;
  readonly template?: string | undefined;
  readonly metadata?: string | readonly string[] | undefined;
}

export interface SandboxServiceParts {
  readonly host: Host;
  readonly sandboxes: SandboxRepository;
  readonly templates: TemplateRepository;
  readonly operations: Operations;
  readonly audit: AuditLog;
  readonly metrics: Metrics;
  readonly logger: Logger;
}

export class SandboxService {
  readonly #parts: SandboxServiceParts;

  constructor(parts: SandboxServiceParts) {
    this.#parts = parts;
  }

  /**
   * Boots a sandbox and resolves when it runs. Throws before anything is made:
   * `invalid_request`, `capacity_exceeded`, `not_found` (the template),
   * `no_hosts_available`. If the agent fails, the row stays, in state `error` with
   * the reason.
   */
  async create(principal: Principal, request: rest.CreateSandbox): Promise<rest.Sandbox> {
    const { host, sandboxes, templates, operations } = this.#parts;
    const description = await host.describe();
    const snapshot = await templates.find(principal.teamId, request.template);
    const shape = shapeOf(request, snapshot);
    checkRequest(shape, description);
    const now = new Date();
    const id = newId('sandbox');
    return operations.run(id, async () => {
      const row = await sandboxes.reserve(
        {
          id,
          team_id: principal.teamId,
          host_id: host.id,
          template: request.template,
          state: 'creating',
          reason: null,
          vcpus: shape.vcpus,
          memory_mb: shape.memory_mb,
          disk_size_mb: shape.disk_size_mb,
          timeout_sec: request.timeout_sec,
          auto_pause: request.auto_pause,
          allow_internet: request.allow_internet,
          host_ip: null,
          metadata: JSON.stringify(request.metadata ?? {}),
          versions: '{}',
          created_at: now,
          started_at: null,
          last_active_at: null,
          updated_at: now,
          ended_at: null,
        },
        description.memoryMb,
      );
      return this.#boot(principal, row, shape, request.envs ?? {});
    });
  }

  async #boot(
    principal: Principal,
    row: SandboxRow,
    { snapshot }: Shape,
    envs: Record<string, string>,
  ): Promise<rest.Sandbox> {
    const { host, sandboxes, audit, metrics, logger } = this.#parts;
    const finished = metrics.createDuration.startTimer();
    try {
      const answer = await agentCall(() =>
        host.client.createSandbox(
          {
            sandboxId: row.id,
            templateId: snapshot?.id ?? row.template,
            fromSnapshot: snapshot !== undefined,
            autoPause: row.auto_pause,
            teamId: row.team_id,
            vcpus: row.vcpus,
            memoryMb: row.memory_mb,
            ...(row.disk_size_mb === null ? {} : { diskSizeMb: row.disk_size_mb }),
            timeoutSec: row.timeout_sec,
            envs,
            denyInternet: !row.allow_internet,
            labels: row.metadata,
          },
          { timeoutMs: host.guestStartTimeoutMs() },
        ),
      );
      const now = new Date();
      const running = await sandboxes.update(row.id, {
        state: 'running',
        reason: null,
        host_ip: answer.hostIp ?? null,
        disk_size_mb: answer.sandbox?.diskSizeMb ?? row.disk_size_mb,
        build_id: answer.sandbox?.buildId ?? null,
        versions: JSON.stringify(answer.metadata),
        started_at: now,
        last_active_at: now,
      });
      await audit.record({
        teamId: row.team_id,
        actor: principal,
        action: 'create',
        sandboxId: row.id,
        status: 'success',
        metadata: { template: row.template },
      });
      finished({ outcome: 'success' });
      logger.info({ sandbox: row.id, template: row.template }, 'Sandbox created');
      return presentSandbox(running ?? row, phaseTimings(answer.timings));
    } catch (reason) {
      const error = TorporError.from(reason);
      finished({ outcome: error.code });
      logger.error({ sandbox: row.id, err: error }, 'Sandbox could not be created');
      await this.#discard(row.id);
      await sandboxes.update(row.id, { state: 'error', reason: publicMessage(error) });
      await audit.record({
        teamId: row.team_id,
        actor: principal,
        action: 'create',
        sandboxId: row.id,
        status: 'error',
        metadata: { template: row.template, code: error.code },
      });
      throw new TorporError(
        error.code,
        `Sandbox ${row.id} could not be created: ${error.message}`,
        {
          remedy: error.remedy,
          cause: error,
        },
      );
    }
  }

  /** After a failed create: a half-made sandbox must not go on to use the host. */
  async #discard(id: string): Promise<void> {
    const { host, logger } = this.#parts;
    try {
      await host.client.destroySandbox({ sandboxId: id }, { timeoutMs: DESTROY_TIMEOUT_MS });
    } catch (reason) {
      const error = TorporError.from(reason);
      if (error.code !== 'not_found') {
        logger.warn(
          { sandbox: id, err: error },
          'The rest of a failed create could not be removed',
        );
      }
    }
  }

  /** Throws `not_found`, also for a sandbox of another team. A stopped one is still found. */
  async get(principal: Principal, id: string): Promise<rest.Sandbox> {
    return presentSandbox(await findOwn(this.#parts.sandboxes, principal, id));
  }

  async list(principal: Principal, request: ListRequest): Promise<rest.SandboxList> {
    const rows = await this.#parts.sandboxes.list({
      teamId: principal.teamId,
      states: parseStates(request.state),
      template: request.template,
      metadata: parseLabels(request.metadata),
      after: request.next_token === undefined ? undefined : decodeCursor(request.next_token),
      // One more than asked for tells whether there is another page.
      limit: request.limit + 1,
    });
    const page = rows.slice(0, request.limit);
    const last = page.at(-1);
    return {
      sandboxes: page.map((row) => presentSandbox(row)),
      ...(rows.length > page.length && last !== undefined
        ? { next_token: encodeCursor({ createdAt: last.created_at, id: last.id }) }
        : {}),
    };
  }

  /** Ends a sandbox and removes what it has on its host. A stopped one is left as it is. Throws `not_found`, `invalid_state`, or what the agent says. */
  async destroy(principal: Principal, id: string): Promise<void> {
    await findOwn(this.#parts.sandboxes, principal, id);
    await this.#parts.operations.run(id, () => this.#destroy(id, principal.teamId, principal));
  }

  /** Destroys every sandbox of the host, whoever owns it. Throws the first error after all have been tried. */
  async destroyAll(): Promise<void> {
    const { host, sandboxes, operations } = this.#parts;
    const rows = await sandboxes.listLiving(host.id);
    const results = await Promise.allSettled(
      rows.map(({ id, team_id: teamId }) => operations.run(id, () => this.#destroy(id, teamId))),
    );
    const failed = results.find((result) => result.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
  }

  async #destroy(id: string, teamId: string, actor?: Principal): Promise<void> {
    const { host, sandboxes, audit, logger } = this.#parts;
    const row = await settledRow(this.#parts, { teamId }, id);
    if (row.state === 'stopped') return;
    if (row.state !== 'destroying') assertTransition(id, row.state, 'destroying');
    await sandboxes.update(id, { state: 'destroying' });
    const entry = {
      teamId,
      ...(actor === undefined ? {} : { actor }),
      action: 'destroy',
      sandboxId: id,
    } as const;
    try {
      await host.client.destroySandbox({ sandboxId: id }, { timeoutMs: DESTROY_TIMEOUT_MS });
    } catch (reason) {
      const error = TorporError.from(reason);
      if (error.code !== 'not_found') {
        // A destroy that fails twice has left something half taken down.
        const back =
          row.state === 'destroying'
            ? { state: 'error' as const, reason: publicMessage(error) }
            : { state: row.state, reason: row.reason };
        await sandboxes.update(id, back);
        await audit.record({ ...entry, status: 'error', metadata: { code: error.code } });
        throw error;
      }
    }
    await sandboxes.update(id, { state: 'stopped', reason: null, ended_at: new Date() });
    await audit.record({ ...entry, status: 'success' });
    logger.info({ sandbox: id }, 'Sandbox destroyed');
  }

  /** Counts as activity: the idle timeout starts anew. */
  async ping(principal: Principal, id: string): Promise<void> {
    const { host, sandboxes } = this.#parts;
    await this.requireRunning(principal, id);
    await agentCall(() =>
      host.client.pingSandbox({ sandboxId: id }, { timeoutMs: AGENT_CALL_TIMEOUT_MS }),
    );
    await sandboxes.touch(id);
  }

  /** The last bytes of the serial console, also of a sandbox whose VMM has died. */
  async console(principal: Principal, id: string, maxBytes: number): Promise<Uint8Array> {
    const row = await findOwn(this.#parts.sandboxes, principal, id);
    if (row.state === 'stopped') throw notInState(row, 'there');
    const answer = await agentCall(() =>
      this.#parts.host.client.readConsole(
        { sandboxId: id, maxBytes },
        { timeoutMs: AGENT_CALL_TIMEOUT_MS },
      ),
    );
    return answer.content;
  }

  /**
   * The sandbox, which runs and is in use now. Throws `not_found`, `invalid_state`
   * with the reason, or `host_unavailable`: at once, so that no call waits for a
   * sandbox that is gone. One that is being committed may run on; the agent knows, and
   * waits for it.
   */
  async requireRunning(principal: Principal, id: string): Promise<SandboxRow> {
    const row = await findOwn(this.#parts.sandboxes, principal, id);
    if (row.state !== 'running' && row.state !== 'snapshotting') throw notInState(row, 'running');
    if (Date.now() - (row.last_active_at?.getTime() ?? 0) > ACTIVITY_RESOLUTION_MS) {
      await this.#parts.sandboxes.touch(id);
    }
    return row;
  }
}

function parseStates(list: string | undefined): readonly SandboxState[] {
  if (list === undefined) return SANDBOX_STATES.filter((state) => state !== 'stopped');
  return list.split(',').map((item) => {
    const state = item.trim();
    if (isSandboxState(state)) return state;
    throw new TorporError(
      'invalid_request',
      `state: ${JSON.stringify(state.slice(0, 64))} is none of ${SANDBOX_STATES.join(', ')}.`,
    );
  });
}

function parseLabels(labels: string | readonly string[] | undefined): Record<string, string> {
  if (labels === undefined) return {};
  const list = typeof labels === 'string' ? [labels] : labels;
  return Object.fromEntries(
    list.map((label) => {
      const at = label.indexOf('=');
      if (at > 0) return [label.slice(0, at), label.slice(at + 1)];
      throw new TorporError('invalid_request', 'metadata must have the form key=value.');
    }),
  );
}
