/**
 * The connections of a control plane to its database and its agent, which can be cut at a given
 * step of an operation. A control plane without them is as good as dead: it can change nothing,
 * and the others do not notice.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Transport } from '@connectrpc/connect';
import { TorporError } from '@torpor/protocol';

/** A statement or a call at which the connections are cut: before it takes effect, or after, before its response. */
export type Step = {
  readonly when: 'before' | 'after';
  /** Only the connection of the statement is cut, once; all connections by default. */
  readonly cuts?: 'connection';
} & (
  | {
      readonly sql: RegExp;
      /** It matches only after a statement like this on the same connection. */
      readonly following?: RegExp | undefined;
      readonly call?: never;
    }
  | { readonly call: string; readonly sql?: never }
);

export interface DatabaseAddress {
  /** The directory of the server's socket. */
  readonly directory: string;
  readonly port: number;
  readonly user: string;
}

export class SeverableLinks implements AsyncDisposable {
  readonly databaseUrl: string;
  readonly transport: Transport;
  /** Resolves when the connections have been cut. */
  readonly severed: Promise<void>;
  readonly #cut = new AbortController();
  readonly #sockets = new Set<Socket>();
  #step: Step | undefined;
  #release: () => Promise<void> = async () => undefined;

  private constructor(directory: string, { port, user }: DatabaseAddress, transport: Transport) {
    this.databaseUrl = socketUrl({ directory, port, user });
    this.transport = this.#severable(transport);
    this.severed = new Promise((resolve) => {
      this.#cut.signal.addEventListener('abort', () => resolve());
    });
  }

  static async open(database: DatabaseAddress, transport: Transport): Promise<SeverableLinks> {
    const directory = await mkdtemp(join(tmpdir(), 'torpor-links-'));
    const links = new SeverableLinks(directory, database, transport);
    const path = (parent: string) => join(parent, `.s.PGSQL.${database.port}`);
    const server = createServer((client) => links.#join(client, path(database.directory)));
    await new Promise<void>((resolve) => server.listen(path(directory), resolve));
    links.#release = async () => {
      server.close();
      await rm(directory, { recursive: true, force: true });
    };
    return links;
  }

  /** From now on the connections are cut at this step. */
  arm(step: Step): void {
    this.#step = step;
  }

  sever(): void {
    if (this.#cut.signal.aborted) return;
    this.#cut.abort(new TorporError('host_unavailable', 'The links have been cut.'));
    for (const socket of this.#sockets) socket.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.sever();
    await this.#release();
  }

  #join(client: Socket, path: string): void {
    if (this.#cut.signal.aborted) return void client.destroy();
    const server = connect(path);
    this.#sockets.add(client);
    for (const socket of [client, server]) socket.on('error', () => undefined);
    server.pipe(client);
    // The server still executes what it was sent; an open transaction is rolled back.
    client.on('close', () => server.end());
    // Per connection, as a transaction is: another one may commit in between.
    let preceded = false;
    client.on('data', (chunk: Buffer) => {
      const statement = chunk.toString('latin1');
      const matches = this.#matches(statement, preceded);
      preceded ||= this.#follows(statement);
      const cut = this.#step?.cuts === 'connection' ? () => client.destroy() : () => this.sever();
      const isBefore = this.#step?.when === 'before';
      if (matches && this.#step?.cuts === 'connection') this.#step = undefined;
      if (matches && isBefore) return cut();
      server.write(chunk, () => {
        if (matches) cut();
      });
    });
  }

  #matches(statement: string, preceded: boolean): boolean {
    if (this.#step?.sql === undefined) return false;
    const { sql, following } = this.#step;
    return sql.test(statement) && (following === undefined || preceded);
  }

  /** Whether a statement is the one that the step's must follow. */
  #follows(statement: string): boolean {
    return this.#step?.sql !== undefined && this.#step.following?.test(statement) === true;
  }

  #severable(transport: Transport): Transport {
    const reach = (call: string, when: Step['when']) => {
      if (this.#step?.call === call && this.#step.when === when) this.sever();
      this.#cut.signal.throwIfAborted();
    };
    const either = (signal: AbortSignal | undefined) =>
      AbortSignal.any([this.#cut.signal, ...(signal === undefined ? [] : [signal])]);
    return {
      unary: async (method, signal, ...rest) => {
        reach(method.localName, 'before');
        // The agent executes a call that it was sent, even if the client disconnects.
        const response = await transport.unary(method, signal, ...rest);
        reach(method.localName, 'after');
        return response;
      },
      stream: (method, signal, ...rest) => transport.stream(method, either(signal), ...rest),
    };
  }
}

export function socketUrl({ directory, port, user }: DatabaseAddress): string {
  return `postgresql://${user}@/postgres?host=${encodeURIComponent(directory)}&port=${port}`;
}
