/**
 * Which control plane reconciles which host. Every control plane has connections to all hosts, for
 * calls; the rows of a host's sandboxes are kept up to date by one at a time, which has claimed
 * it (`hosts.reconciled_by`).
 *
 * A control plane is a row of `control_planes` with a lease, which it renews; whoever finds one
 * that has expired removes it, and with it its claims. So a renewal is one write for any number of
 * hosts, another control plane takes over within seconds of a death, and a connection that is
 * lost for less than that changes nothing. (Why leases rather than advisory locks:
 * docs/decisions.md.)
 *
 * A control plane that has not renewed its lease in time stops by itself. One that hung cannot:
 * what it still writes are facts that it has asked the host for, into rows that nobody has
 * written since; and that a host does not respond it can only write while it has the claim.
 *
 * A host that reports to another control plane and cannot be reached from the one that has
 * claimed it is left to the others for a while. A host that no control plane can reach, such as
 * that of a `torpor up` that was killed, is marked by any of them.
 */
import { randomBytes } from 'node:crypto';
import { type Kysely, sql } from 'kysely';
import type { Logger } from 'pino';
import type { Database, HostRow } from '../database/schema.ts';
import { PeriodicTask } from '../jobs/periodic-task.ts';
import type { HostConnection } from './connection.ts';
import type { HostRegistry } from './registry.ts';

export interface ClaimTiming {
  /** How long the claims of a control plane that died last. */
  readonly claimMs: number;
  /** How often it is renewed, and free hosts are looked for. */
  readonly claimIntervalMs: number;
  /** How long a host is left to the others that cannot be reached from here. */
  readonly claimPauseMs: number;
}

interface Parts {
  readonly db: Kysely<Database>;
  readonly registry: HostRegistry;
  readonly logger: Logger;
  readonly timing: ClaimTiming;
  /** Reconciles a host until it is disposed of; calls `onUnreachable` when it does not respond. */
  readonly watch: (host: HostConnection, onUnreachable: () => void) => AsyncDisposable;
  /** Marks the sandboxes of a host that nobody has claimed. */
  readonly markUnreachable: (hostId: string) => Promise<void>;
}

interface Watched {
  readonly connection: HostConnection;
  readonly watch: AsyncDisposable;
}

type ClaimedHost = Pick<HostRow, 'id' | 'state' | 'reconciled_by'>;

/** An id for a control plane, new at each start. */
export function newControlPlaneId(): string {
  return `${process.pid}-${randomBytes(6).toString('hex')}`;
}

/** For the only process on a database: every other one has died. */
export async function forgetControlPlanes(db: Kysely<Database>): Promise<void> {
  await db.deleteFrom('control_planes').execute();
}

export class HostClaims implements AsyncDisposable {
  readonly #id: string;
  readonly #parts: Parts;
  readonly #watched = new Map<string, Watched>();
  /** Hosts whose watch is being stopped. */
  readonly #stopping = new Map<string, Promise<void>>();
  /** Hosts that do not respond, since the last round. */
  readonly #silent = new Set<string>();
  /** Until when a host is left to the others. */
  readonly #pausedUntil = new Map<string, number>();
  /** When the last successful renewal began. */
  #renewed = performance.now();
  readonly #expiry: NodeJS.Timeout;
  readonly #task: PeriodicTask;
  readonly #unsubscribe: () => void;

  constructor(id: string, parts: Parts) {
    this.#id = id;
    this.#parts = parts;
    const { registry, logger, timing } = parts;
    const { claimMs, claimIntervalMs: intervalMs } = timing;
    const failure = 'Could not renew the claims of this control plane';
    this.#task = new PeriodicTask({ intervalMs, logger, failure }, () => this.#round());
    this.#unsubscribe = registry.onChange(() => this.#task.wake());
    // Not in the rounds: they may wait for the database.
    this.#expiry = setInterval(() => {
      if (performance.now() - this.#renewed > claimMs) this.#stopAll();
    }, intervalMs).unref();
  }

  /** Leaves the hosts to the other control planes. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#unsubscribe();
    clearInterval(this.#expiry);
    await this.#task[Symbol.asyncDispose]();
    for (const id of this.#watched.keys()) this.#stop(id);
    await Promise.all(this.#stopping.values());
    const { db } = this.#parts;
    // Without the database its lease expires.
    await db
      .deleteFrom('control_planes')
      .where('id', '=', this.#id)
      .execute()
      .catch(() => undefined);
  }

  async #round(): Promise<void> {
    const begun = performance.now();
    if (!(await this.#renew())) this.#stopAll();
    this.#renewed = begun;
    const connections = new Map(this.#parts.registry.all().map((host) => [host.id, host]));
    // Only those that are watched here would be called otherwise.
    for (const host of connections.values()) host.askAgain();
    const hosts = await this.#read([...connections.keys()]);
    const own = new Set(hosts.filter((host) => this.#isOwn(host)).map(({ id }) => id));
    for (const [id, { connection }] of this.#watched) {
      if (!own.has(id) || connections.get(id) !== connection) this.#stop(id);
    }
    for (const id of await this.#unreachableHere(hosts)) {
      own.delete(id);
      await this.#release(id);
    }
    for (const id of await this.#claim(hosts)) own.add(id);
    for (const id of own) this.#start(connections.get(id));
    await this.#markAbandoned();
  }

  /** Returns false if its row, and so its claims, were removed. */
  async #renew(): Promise<boolean> {
    const { db, timing } = this.#parts;
    const expires_at = sql<Date>`clock_timestamp() + make_interval(secs => ${timing.claimMs / 1000})`;
    const renewed = await db
      .updateTable('control_planes')
      .set({ expires_at })
      .where('id', '=', this.#id)
      .returning('id')
      .executeTakeFirst();
    if (renewed === undefined) {
      await db.insertInto('control_planes').values({ id: this.#id, expires_at }).execute();
    }
    await db
      .deleteFrom('control_planes')
      .where('expires_at', '<=', sql<Date>`clock_timestamp()`)
      .execute();
    return renewed !== undefined;
  }

  async #read(ids: readonly string[]): Promise<ClaimedHost[]> {
    if (ids.length === 0) return [];
    return this.#parts.db
      .selectFrom('hosts')
      .select(['id', 'state', 'reconciled_by'])
      .where('id', 'in', ids)
      .execute();
  }

  #isOwn({ reconciled_by }: ClaimedHost): boolean {
    return reconciled_by === this.#id;
  }

  /** Claims the hosts that nobody has claimed, and returns their ids. */
  async #claim(hosts: readonly ClaimedHost[]): Promise<string[]> {
    const now = performance.now();
    const free = hosts.filter(
      ({ id, reconciled_by }) =>
        reconciled_by === null && now >= (this.#pausedUntil.get(id) ?? Number.NEGATIVE_INFINITY),
    );
    if (free.length === 0) return [];
    const claimed = await this.#parts.db
      .updateTable('hosts')
      .set({ reconciled_by: this.#id })
      .where(
        'id',
        'in',
        free.map(({ id }) => id),
      )
      .where('reconciled_by', 'is', null)
      .returning('id')
      .execute();
    return claimed.map(({ id }) => id);
  }

  /** The claimed hosts that do not respond here, but report to another control plane. */
  async #unreachableHere(hosts: readonly ClaimedHost[]): Promise<string[]> {
    const silent = hosts.filter(
      (host) => this.#isOwn(host) && this.#silent.delete(host.id) && host.state === 'online',
    );
    if (silent.length === 0) return [];
    const others = await this.#parts.db
      .selectFrom('control_planes')
      .select('id')
      .where('id', '<>', this.#id)
      .limit(1)
      .execute();
    return others.length === 0 ? [] : silent.map(({ id }) => id);
  }

  async #release(id: string): Promise<void> {
    const { db, logger, timing } = this.#parts;
    this.#pausedUntil.set(id, performance.now() + timing.claimPauseMs);
    this.#stop(id);
    await db
      .updateTable('hosts')
      .set({ reconciled_by: null })
      .where('id', '=', id)
      .where('reconciled_by', '=', this.#id)
      .execute();
    logger.warn({ host: id }, 'Host left to the other control planes: it does not respond here');
  }

  #start(connection: HostConnection | undefined): void {
    if (connection === undefined) return;
    const { id } = connection;
    if (this.#watched.has(id) || this.#stopping.has(id)) return;
    const watch = this.#parts.watch(connection, () => {
      this.#silent.add(id);
      this.#task.wake();
    });
    this.#watched.set(id, { connection, watch });
    this.#parts.logger.info({ host: id }, 'Reconciling a host');
  }

  #stopAll(): void {
    if (this.#watched.size === 0) return;
    this.#parts.logger.warn('Claims of hosts have expired; another control plane may have them');
    for (const id of this.#watched.keys()) this.#stop(id);
  }

  /** In the background: it may be waiting for a host that hangs. */
  #stop(id: string): void {
    const watched = this.#watched.get(id);
    if (watched === undefined) return;
    this.#watched.delete(id);
    const stopped = Promise.resolve(watched.watch[Symbol.asyncDispose]()).finally(() => {
      this.#stopping.delete(id);
      this.#task.wake();
    });
    this.#stopping.set(id, stopped);
  }

  /** Hosts that do not report, and that no control plane can reach. */
  async #markAbandoned(): Promise<void> {
    const abandoned = await this.#parts.db
      .selectFrom('hosts')
      .select('id')
      .where('state', '=', 'unreachable')
      .where('reconciled_by', 'is', null)
      .execute();
    for (const { id } of abandoned) await this.#parts.markUnreachable(id);
  }
}
