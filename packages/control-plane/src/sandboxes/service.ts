/**
 * Creates, finds and destroys sandboxes. An operation that changes something does not
 * depend on the client's connection: it completes even if the client disconnects
 * (operations/runner.ts).
 */
import { newId, TorporError } from '@torpor/protocol';
import type { Principal } from '../auth/principal.ts';
import { SYSTEM } from '../auth/principal.ts';
import type { Cursor } from '../database/page.ts';
import type { SandboxRow } from '../database/schema.ts';
import type { HostInventory } from '../hosts/inventory.ts';
import { hasFailedToStart, neverReachedHost } from '../hosts/report.ts';
import { type CreateRecord, UNRECORDED } from '../idempotency/keys.ts';
import { findOwn, notInState, requireReachable } from './access.ts';
import { createOperation, type NewSandbox } from './create.ts';
import { destroyOperation } from './destroy.ts';
import { type RequestedShape, type Shape, shapeOf } from './limits.ts';
import type { OperatedSandbox, SandboxParts, SnapshotLookup } from './parts.ts';
import type { SandboxFilter } from './repository.ts';
import { notCreated, settledCreate } from './settled-create.ts';

const AGENT_CALL_TIMEOUT_MS = 15_000;
const ACTIVITY_RESOLUTION_MS = 5_000;

/** The properties of a new sandbox. */
export interface SandboxRequest
  extends RequestedShape,
    Omit<NewSandbox, keyof Shape | 'id' | 'snapshot'> {}

export type ListRequest = Omit<SandboxFilter, 'teamId'>;

export interface SandboxPage {
  readonly rows: readonly SandboxRow[];
  /** The start of the next page; undefined on the last. */
  readonly next: Cursor | undefined;
}

export interface SandboxServiceParts extends SandboxParts {
  readonly inventory: HostInventory;
  readonly snapshots: SnapshotLookup;
}

export class SandboxService {
  readonly #parts: SandboxServiceParts;

  constructor(parts: SandboxServiceParts) {
    this.#parts = parts;
  }

  /**
   * Boots a sandbox and resolves when it runs. Throws before anything is created:
   * `invalid_request`, `capacity_exceeded`, `not_found` (the template),
   * `no_hosts_available`, `host_unavailable`. If it fails on its host, the row stays, in state
   * `error` with the reason.
   */
  async create(
    principal: Principal,
    request: SandboxRequest,
    record: CreateRecord = UNRECORDED,
  ): Promise<OperatedSandbox> {
    const { inventory, snapshots, sandboxes, runner } = this.#parts;
    const find = () => snapshots.findUsable(principal.teamId, request.template);
    for (let snapshot = await find(); ; ) {
      const sandbox = { ...request, ...shapeOf(request, snapshot), snapshot };
      let id = '';
      try {
        return await inventory.withCurrent(() => {
          id = newId('sandbox');
          return runner.run(createOperation(this.#parts, principal, { ...sandbox, id }, record));
        });
      } catch (reason) {
        if (snapshot === undefined || (await sandboxes.findById(id)) !== undefined) throw reason;
        const current = await find();
        if (current?.id === snapshot.id) throw reason;
        // It was replaced or deleted before a host had restored it.
        snapshot = current;
      }
    }
  }

  /**
   * What came of a create whose control plane did not tell: waits until it is settled.
   * Undefined if the host never had the sandbox. Throws the reason if it could not be created.
   */
  async created(principal: Principal, id: string): Promise<OperatedSandbox | undefined> {
    const row = await settledCreate(this.#parts, principal, id, 'sandbox.create');
    if (neverReachedHost(row)) return undefined;
    if (hasFailedToStart(row)) throw notCreated(row);
    return { row, timings: [] };
  }

  /** Throws `not_found`, also for a sandbox of another team. A stopped one is still found. */
  get(principal: Principal, id: string): Promise<SandboxRow> {
    return findOwn(this.#parts.sandboxes, principal, id);
  }

  /** A page of the team's sandboxes, newest first. */
  async list({ teamId }: Principal, request: ListRequest): Promise<SandboxPage> {
    // One more than requested shows whether there is another page.
    const filter = { ...request, teamId, limit: request.limit + 1 };
    const found = await this.#parts.sandboxes.list(filter);
    const rows = found.slice(0, request.limit);
    const last = rows.at(-1);
    const isLast = found.length === rows.length || last === undefined;
    return { rows, next: isLast ? undefined : { createdAt: last.created_at, id: last.id } };
  }

  /**
   * Destroys a sandbox and everything that it has on its host; if that does not respond, once it
   * does again. Does nothing if it is already stopped. Throws `not_found`, `invalid_state`, or the
   * agent's error.
   */
  async destroy(principal: Principal, id: string): Promise<void> {
    const { sandboxes, runner } = this.#parts;
    await findOwn(sandboxes, principal, id);
    const { teamId } = principal;
    await runner.run(destroyOperation(this.#parts, { id, teamId, actor: principal.actor }));
  }

  /** Destroys every sandbox of a host, of every team. Throws the first error after all have been tried. */
  async destroyAll(hostId: string): Promise<void> {
    const { sandboxes, runner } = this.#parts;
    const rows = await sandboxes.listLiving(hostId);
    const results = await Promise.allSettled(
      rows.map(async ({ id, team_id: teamId }) => {
        const destroyed = destroyOperation(this.#parts, { id, teamId, actor: SYSTEM });
        if ((await runner.run(destroyed)) === 'destroyed') return;
        throw new TorporError('host_unavailable', `The host of sandbox ${id} does not respond.`);
      }),
    );
    const failed = results.find((result) => result.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
  }

  /** Counts as activity: restarts the idle timeout. */
  async ping(principal: Principal, id: string): Promise<void> {
    const { hosts, sandboxes } = this.#parts;
    const host = hosts.connection((await this.requireRunning(principal, id)).host_id);
    await host.call((client) =>
      client.pingSandbox({ sandboxId: id }, { timeoutMs: AGENT_CALL_TIMEOUT_MS }),
    );
    await sandboxes.touch(id);
  }

  /** The last bytes of the serial console, all that is kept if `maxBytes` is omitted, even if the sandbox's VMM has died. */
  async console(
    principal: Principal,
    id: string,
    maxBytes: number | undefined,
  ): Promise<Uint8Array> {
    const row = await findOwn(this.#parts.sandboxes, principal, id);
    if (row.state === 'stopped') throw notInState(row, 'there');
    requireReachable(row);
    const host = this.#parts.hosts.connection(row.host_id);
    const response = await host.call((client) =>
      client.readConsole(
        { sandboxId: id, ...(maxBytes === undefined ? {} : { maxBytes }) },
        { timeoutMs: AGENT_CALL_TIMEOUT_MS },
      ),
    );
    return response.content;
  }

  /**
   * A sandbox that must be running; counts as its use. Throws `not_found`, `invalid_state`
   * with the reason, or `host_unavailable`: at once, so that no call waits for a sandbox that
   * no longer exists. One that is being committed may keep running; the agent waits for it.
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
