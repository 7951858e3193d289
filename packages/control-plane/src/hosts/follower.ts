import { TorporError } from '@torpor/protocol';
import { hostIdentity, type TlsCredentials, TlsTransport } from '@torpor/protocol/tls';
import type { Kysely } from 'kysely';
import type { Logger } from 'pino';
import type { Database, HostRow } from '../database/schema.ts';
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
  /** Follows the sandboxes of a host, until it is disposed of. */
  readonly watch: (host: HostConnection) => AsyncDisposable;
  readonly guestTimeoutMs: number;
  readonly logger: Logger;
  readonly intervalMs?: number | undefined;
}

interface Followed {
  readonly address: string;
  readonly connection: HostConnection;
  readonly transport: TlsTransport;
  readonly watch: AsyncDisposable;
}

/** How soon a host that joined another control plane, or a new address, is noticed. */
const DEFAULT_INTERVAL_MS = 2_000;

/** Keeps a connection to, and a watch of, every host that has joined, as their rows come, change and go. */
export class HostFollower implements AsyncDisposable {
  readonly #parts: Parts;
  readonly #followed = new Map<string, Followed>();
  readonly #rounds: Promise<void>;
  #isStopping = false;
  #wake: () => void = () => undefined;
  #isWoken = false;

  constructor(parts: Parts) {
    this.#parts = parts;
    this.#rounds = this.#repeat();
  }

  /** Looks at the rows now. */
  wake(): void {
    this.#isWoken = true;
    this.#wake();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isStopping = true;
    this.#wake();
    await this.#rounds;
    await Promise.all([...this.#followed.keys()].map((id) => this.#leave(id)));
  }

  async #repeat(): Promise<void> {
    while (!this.#isStopping) {
      this.#isWoken = false;
      try {
        await this.#follow();
      } catch (reason) {
        const err = TorporError.from(reason);
        this.#parts.logger.warn({ err }, 'Could not follow the hosts; will retry');
      }
      await this.#pause();
    }
  }

  #pause(): Promise<void> {
    if (this.#isWoken || this.#isStopping) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, this.#parts.intervalMs ?? DEFAULT_INTERVAL_MS);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
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
      if (addresses.get(id) !== address) await this.#leave(id);
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
    const watch = this.#parts.watch(connection);
    this.#followed.set(id, { address, connection, transport, watch });
    logger.info({ host: id, address }, 'Following a host');
  }

  /** Calls in flight on its connection fail. */
  async #leave(id: string): Promise<void> {
    const followed = this.#followed.get(id);
    if (followed === undefined) return;
    this.#followed.delete(id);
    this.#parts.registry.remove(followed.connection);
    followed.transport[Symbol.dispose]();
    await followed.watch[Symbol.asyncDispose]();
  }
}
