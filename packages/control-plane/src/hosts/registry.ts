import type { Transport } from '@connectrpc/connect';
import { TorporError } from '@torpor/protocol';
import { HostConnection } from './connection.ts';

export interface HostSettings {
  readonly id: string;
  /** To the HostAgentService of the machine. */
  readonly transport: Transport;
  /** How long the agent waits for the first response of a guest that it started. */
  readonly guestTimeoutMs: number;
}

/** The hosts, and the connections to their agents. No other module creates a client of an agent. */
export class HostRegistry {
  readonly #connections: ReadonlyMap<string, HostConnection>;

  constructor(hosts: readonly HostSettings[]) {
    this.#connections = new Map(
      hosts.map(({ id, transport, guestTimeoutMs }) => [
        id,
        new HostConnection(id, transport, guestTimeoutMs),
      ]),
    );
  }

  /** The connection to the host of a row. Throws `host_unavailable`. */
  connection(hostId: string): HostConnection {
    const connection = this.#connections.get(hostId);
    if (connection !== undefined) return connection;
    throw new TorporError('host_unavailable', `There is no host ${JSON.stringify(hostId)}.`, {
      remedy: 'Start the control plane with the host that has the sandbox.',
    });
  }

  all(): readonly HostConnection[] {
    return [...this.#connections.values()];
  }
}
