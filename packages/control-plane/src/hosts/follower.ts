import { TorporError } from '@torpor/protocol';
import { hostIdentity, type TlsCredentials, TlsTransport } from '@torpor/protocol/tls';
import type { Kysely } from 'kysely';
import type { Logger } from 'pino';
import type { Database, HostRow } from '../database/schema.ts';
import { PeriodicTask } from '../jobs/periodic-task.ts';
import { HostConnection } from './connection.ts';
import type { HostRegistry } from './registry.ts';

/** What this control plane presents to agents, and trusts in them. */
export interface AgentTrust {
  /** The certificate of the authority, in PEM. */
  readonly authority: string;
  readonly credentials: () => TlsCredentials;
}

interface Parts {
  readonly db: Kysely<Database>;
  readonly registry: HostRegistry;
  /** Asked when there is a host to connect to: the authority may not exist before. */
  readonly trust: () => Promise<AgentTrust>;
  readonly guestTimeoutMs: number;
  readonly logger: Logger;
  readonly intervalMs?: number | undefined;
}

interface Followed {
  readonly address: string;
  readonly connection: HostConnection;
  readonly transport: TlsTransport;
}

/** How soon a host that joined another control plane, or a new address, is noticed. */
const DEFAULT_INTERVAL_MS = 2_000;

/** Keeps a connection to every host that has joined, as their rows come, change and go. */
export class HostFollower implements AsyncDisposable {
  readonly #parts: Parts;
  readonly #followed = new Map<string, Followed>();
  readonly #task: PeriodicTask;

  constructor(parts: Parts) {
    this.#parts = parts;
    const { logger, intervalMs = DEFAULT_INTERVAL_MS } = parts;
    const failure = 'Could not follow the hosts';
    this.#task = new PeriodicTask({ intervalMs, logger, failure }, () => this.#follow());
  }

  /** Looks at the rows now. */
  wake(): void {
    this.#task.wake();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#task[Symbol.asyncDispose]();
    for (const id of this.#followed.keys()) this.#leave(id);
  }

  async #follow(): Promise<void> {
    const rows = await this.#parts.db
      .selectFrom('hosts')
      .select(['id', 'address'])
      .where('kind', '=', 'joined')
      .where('address', 'is not', null)
      .execute();
    const addresses = new Map(rows.map(({ id, address }) => [id, address]));
    for (const [id, { address }] of this.#followed) {
      if (addresses.get(id) !== address) this.#leave(id);
    }
    for (const [id, address] of addresses) {
      if (address === null || this.#followed.has(id)) continue;
      try {
        await this.#begin(id, address);
      } catch (reason) {
        // One host must not keep the others from being followed.
        const err = TorporError.from(reason);
        this.#parts.logger.warn({ host: id, err }, 'Could not follow a host; will retry');
      }
    }
  }

  async #begin(id: HostRow['id'], address: string): Promise<void> {
    const { registry, guestTimeoutMs, logger } = this.#parts;
    const { authority, credentials } = await this.#parts.trust();
    const identity = hostIdentity(id);
    const transport = new TlsTransport({ address, authority, identity, credentials });
    const connection = new HostConnection(id, transport, guestTimeoutMs);
    registry.add(connection);
    this.#followed.set(id, { address, connection, transport });
    logger.info({ host: id, address }, 'Following a host');
  }

  /** Calls in flight on its connection fail. */
  #leave(id: string): void {
    const followed = this.#followed.get(id);
    if (followed === undefined) return;
    this.#followed.delete(id);
    this.#parts.registry.remove(followed.connection);
    followed.transport[Symbol.dispose]();
  }
}
