import * as rest from '@torpor/protocol/rest';
import type { Connection } from './http/connection.ts';
import { withSdkNames } from './http/field-names.ts';
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

  /** Lists the running ones; with `all`, also background programs that have exited, which have an `exit_code`. */
  async list(
    options: { readonly all?: boolean | undefined; readonly signal?: AbortSignal } = {},
  ): Promise<ProcessInfo[]> {
    const { processes } = await this.#connection.json('GET', this.#path, rest.processListSchema, {
      query: { all: options.all === true ? 'true' : undefined },
      signal: options.signal,
    });
    return processes;
  }

  /** Sends a signal to a process and its whole session: a name such as `SIGINT` or a number; SIGKILL by default. */
  async kill(
    selector: number | string,
    options: { readonly name?: string | number; readonly signal?: AbortSignal } = {},
  ): Promise<void> {
    await withSdkNames(
      this.#connection.empty('DELETE', this.#of(selector), {
        query: { signal: options.name },
        signal: options.signal,
      }),
      { signal: 'name' },
    );
  }

  /** Attaches to a running process: to its output from now on, and to its input. */
  connect(selector: number | string, signal?: AbortSignal): Promise<ExecSession> {
    return ExecSession.open(this.#connection, `${this.#of(selector)}/stream`, undefined, signal);
  }

  #of(selector: number | string): string {
    return `${this.#path}/${encodeURIComponent(String(selector))}`;
  }
}
