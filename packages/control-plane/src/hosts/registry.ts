import { TorporError } from '@torpor/protocol';
import type { HostConnection } from './connection.ts';

/** The connections to the agents of the hosts that this process can reach. No other module creates a client of an agent. */
export class HostRegistry {
  readonly #connections = new Map<string, HostConnection>();
  /** The host of this process. */
  local: HostConnection | undefined;
  readonly #listeners = new Set<() => void>();

  /** The connection to the host of a row. Throws `host_unavailable`. */
  connection(hostId: string): HostConnection {
    const connection = this.#connections.get(hostId);
    if (connection !== undefined) return connection;
    throw new TorporError(
      'host_unavailable',
      `The host ${JSON.stringify(hostId)} cannot be reached from this control plane.`,
      {
        remedy:
          'Start the agent of that host. A host of another `torpor up` is reached through the API of that one.',
      },
    );
  }

  all(): readonly HostConnection[] {
    return [...this.#connections.values()];
  }

  /** The ids of those whose agents have responded last. */
  responding(): string[] {
    return this.all().flatMap(({ id, isResponding }) => (isResponding ? [id] : []));
  }

  /** Adds a connection, or replaces the one to the same host. */
  add(connection: HostConnection): void {
    this.#connections.set(connection.id, connection);
    this.#notify();
  }

  /** Removes a connection, unless it has been replaced. */
  remove(connection: HostConnection): void {
    if (this.#connections.get(connection.id) === connection) {
      this.#connections.delete(connection.id);
      this.#notify();
    }
  }

  /** `listener` is called when connections have been added or removed, until the returned function is called. */
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  #notify(): void {
    for (const listener of this.#listeners) listener();
  }
}
