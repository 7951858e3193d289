import { connect, type Socket } from 'node:net';
import { readLines } from '../control/lines.ts';
import {
  descriptionSchema,
  helloSchema,
  MAX_LINE_BYTES,
  type PagerEvent,
  type PagerHello,
  pagerEventSchema,
  pagerResponseSchema,
  UNDERSTOOD_VERSIONS,
  type VmDescription,
} from '../control/protocol.ts';

export interface ServeOptions {
  /** `[A-Za-z0-9-]{1,64}`. */
  readonly vm: string;
  /** The Unix socket that the pager makes, for the VMM to connect to. */
  readonly socketPath: string;
  readonly headerPath: string;
  /** Diff files by the build ids that the header names. */
  readonly diffPaths: Readonly<Record<string, string>>;
  /** Pairs of first block and count, from an earlier {@link PagerClient.describe}. */
  readonly workingSet?: readonly number[];
  /** How long the VMM may take to connect; 60 s if omitted. */
  readonly connectTimeoutMs?: number;
}

/** A request that the pager refused, with its reason, or to which it can no longer respond. */
class PagerRequestError extends Error {
  override readonly name = 'PagerRequestError';
}

/** The host agent's connection to the pager. */
export class PagerClient {
  /** Resolves when the connection is closed: the pager exited, or {@link close} was called. Never rejects. */
  readonly closed: Promise<void>;
  readonly #socket: Socket;
  readonly #pending = new Map<number, PromiseWithResolvers<unknown>>();
  readonly #listeners = new Set<(event: PagerEvent) => void>();
  #nextId = 1;

  private constructor(socket: Socket) {
    this.#socket = socket;
    const closed = Promise.withResolvers<void>();
    this.closed = closed.promise;
    socket.on('error', () => socket.destroy());
    socket.on('close', () => {
      for (const { reject } of this.#pending.values()) {
        reject(new PagerRequestError('The page server has exited.'));
      }
      this.#pending.clear();
      closed.resolve();
    });
    readLines(socket, MAX_LINE_BYTES, (line) => this.#receive(line));
  }

  /** Throws the socket's error if no pager listens there, PagerRequestError if it is of another version. */
  static async connect(socketPath: string): Promise<{ client: PagerClient; hello: PagerHello }> {
    const socket = connect(socketPath);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    socket.once('connect', resolve);
    socket.once('error', reject);
    await promise;
    const client = new PagerClient(socket);
    const hello = helloSchema.parse(await client.#request({ op: 'hello' }));
    if (!UNDERSTOOD_VERSIONS.has(hello.protocolVersion)) {
      client.close();
      throw new PagerRequestError(
        `The page server has version ${hello.protocolVersion} of the protocol.`,
      );
    }
    return { client, hello };
  }

  /** Serves a VM from a build; resolves when its VMM may connect. */
  async serve(options: ServeOptions): Promise<void> {
    await this.#request({ op: 'serve', connectTimeoutMs: 60_000, ...options });
  }

  /** Loads what is missing; the VM no longer needs the pager after the event `materialised`. */
  async materialise(vm: string): Promise<void> {
    await this.#request({ op: 'materialise', vm });
  }

  async describe(vm: string): Promise<VmDescription> {
    return descriptionSchema.parse(await this.#request({ op: 'describe', vm }));
  }

  /** Releases a VM that has exited or is about to; forgets one that failed. Idempotent. */
  async stop(vm: string): Promise<void> {
    await this.#request({ op: 'stop', vm });
  }

  /** Shuts the pager down. Throws PagerRequestError while it serves a VM. */
  async shutdown(): Promise<void> {
    await this.#request({ op: 'shutdown' });
  }

  /** Calls `listener` for each event until the returned object is disposed of. */
  onEvent(listener: (event: PagerEvent) => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }

  /** Closes the connection; the pager keeps running. */
  close(): void {
    this.#socket.destroy();
  }

  #request(body: object): Promise<unknown> {
    const id = this.#nextId++;
    const pending = Promise.withResolvers<unknown>();
    if (this.#socket.destroyed) throw new PagerRequestError('The page server has exited.');
    this.#pending.set(id, pending);
    this.#socket.write(`${JSON.stringify({ id, ...body })}\n`);
    return pending.promise;
  }

  #receive(line: string): void {
    const message: unknown = JSON.parse(line);
    const event = pagerEventSchema.safeParse(message);
    if (event.success) {
      for (const listener of this.#listeners) listener(event.data);
      return;
    }
    const response = pagerResponseSchema.parse(message);
    const pending = this.#pending.get(response.id);
    this.#pending.delete(response.id);
    if ('error' in response) pending?.reject(new PagerRequestError(response.error));
    else pending?.resolve(response.result);
  }
}
