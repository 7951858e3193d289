/**
 * Creates, finds and destroys sandboxes. An operation that changes something does not
 * belong to the client's connection: it runs to its end when the client is gone
 * (operations/runner.ts).
 */
import {
  isSandboxState,
  type rest,
  SANDBOX_STATES,
  type SandboxState,
  TorporError,
} from '@torpor/protocol';
import type { Principal } from '../auth/api-keys.ts';
import type { SandboxRow } from '../database/schema.ts';
import { apiKeyActor, SYSTEM } from '../events/outbox.ts';
import { agentCall } from '../hosts/connection.ts';
import type { Placement } from '../hosts/placement.ts';
import { findOwn, notInState } from './access.ts';
import { createOperation } from './create.ts';
import { decodeCursor, encodeCursor } from './cursor.ts';
import { destroyOperation } from './destroy.ts';
import { checkRequest, shapeOf } from './limits.ts';
import type { SandboxParts, SnapshotLookup } from './parts.ts';
import { presentSandbox } from './present.ts';

const AGENT_CALL_TIMEOUT_MS = 15_000;
const ACTIVITY_RESOLUTION_MS = 5_000;

export interface ListRequest {
  readonly limit: number;
  readonly next_token?: string | undefined;
  readonly state?: string | undefined;
  readonly template?: string | undefined;
  readonly metadata?: string | readonly string[] | undefined;
}

export interface SandboxServiceParts extends SandboxParts {
  readonly placement: Placement;
  readonly snapshots: SnapshotLookup;
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
    const { placement, snapshots, runner } = this.#parts;
    const snapshot = await snapshots.find(principal.teamId, request.template);
    const place = await placement.choose(snapshot?.host_id);
    const shape = shapeOf(request, snapshot);
    checkRequest(shape, place.description);
    const operation = createOperation(
      this.#parts,
      principal,
      {
        template: request.template,
        snapshot,
        vcpus: shape.vcpus,
        memoryMb: shape.memory_mb,
        diskSizeMb: shape.disk_size_mb,
        timeoutSec: request.timeout_sec,
        autoPause: request.auto_pause,
        allowInternet: request.allow_internet,
        envs: request.envs ?? {},
        metadata: request.metadata ?? {},
      },
      place,
    );
    const { row, timings } = await runner.run(operation);
    return presentSandbox(row, timings);
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
    const { sandboxes, runner } = this.#parts;
    await findOwn(sandboxes, principal, id);
    const { teamId } = principal;
    await runner.run(destroyOperation(this.#parts, { id, teamId, actor: apiKeyActor(principal) }));
  }

  /** Destroys every sandbox of the hosts, whoever owns it. Throws the first error after all have been tried. */
  async destroyAll(): Promise<void> {
    const { hosts, sandboxes, runner } = this.#parts;
    const rows = (await Promise.all(hosts.all().map(({ id }) => sandboxes.listLiving(id)))).flat();
    const results = await Promise.allSettled(
      rows.map(({ id, team_id: teamId }) =>
        runner.run(destroyOperation(this.#parts, { id, teamId, actor: SYSTEM })),
      ),
    );
    const failed = results.find((result) => result.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
  }

  /** Counts as activity: the idle timeout starts anew. */
  async ping(principal: Principal, id: string): Promise<void> {
    const { hosts, sandboxes } = this.#parts;
    const { client } = hosts.connection((await this.requireRunning(principal, id)).host_id);
    await agentCall(() =>
      client.pingSandbox({ sandboxId: id }, { timeoutMs: AGENT_CALL_TIMEOUT_MS }),
    );
    await sandboxes.touch(id);
  }

  /** The last bytes of the serial console, also of a sandbox whose VMM has died. */
  async console(principal: Principal, id: string, maxBytes: number): Promise<Uint8Array> {
    const row = await findOwn(this.#parts.sandboxes, principal, id);
    if (row.state === 'stopped') throw notInState(row, 'there');
    const { client } = this.#parts.hosts.connection(row.host_id);
    const answer = await agentCall(() =>
      client.readConsole({ sandboxId: id, maxBytes }, { timeoutMs: AGENT_CALL_TIMEOUT_MS }),
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
