import { rest } from '@torpor/protocol';
import type { Connection } from './http/connection.ts';
import { ExecSession } from './streams/exec-session.ts';

export type ProcessInfo = rest.ProcessList['processes'][number];

/** The processes of a sandbox that were started through the API. A selector is a pid or a tag. */
export class Processes {
  readonly #connection: Connection;
  readonly #path: string;

  constructor(connection: Connection, sandboxPath: string) {
    this.#connection = connection;
    this.#path = `${sandboxPath}/processes`;
  }

  async list(signal?: AbortSignal): Promise<ProcessInfo[]> {
    const { processes } = await this.#connection.json('GET', this.#path, rest.processListSchema, {
      signal,
    });
    return processes;
  }

  /** Signals a process with its whole group; SIGKILL by default. */
  async kill(
    selector: number | string,
    options: { readonly name?: 'SIGKILL' | 'SIGTERM'; readonly signal?: AbortSignal } = {},
  ): Promise<void> {
    await this.#connection.empty('DELETE', this.#of(selector), {
      query: { signal: options.name },
      signal: options.signal,
    });
  }

  /** Attaches to a running process: its output from now on, and its input. */
  connect(selector: number | string, signal?: AbortSignal): Promise<ExecSession> {
    return ExecSession.open(this.#connection, `${this.#of(selector)}/stream`, undefined, signal);
  }

  #of(selector: number | string): string {
    return `${this.#path}/${encodeURIComponent(String(selector))}`;
  }
}
