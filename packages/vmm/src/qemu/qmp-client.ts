import { createConnection, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { TorporError, withFullStop } from '@torpor/protocol';

/** An event of the QEMU Machine Protocol, e.g. `SHUTDOWN`. */
export interface QmpEvent {
  readonly event: string;
  readonly data: Readonly<Record<string, unknown>>;
}

/** QEMU refused a command. `errorClass` is QMP's own, e.g. `GenericError`, `CommandNotFound`. */
export class QmpError extends Error {
  override readonly name = 'QmpError';
  readonly command: string;
  readonly errorClass: string;

  constructor(command: string, errorClass: string, description: string) {
    super(`QEMU refused ${command}: ${description}`);
    this.command = command;
    this.errorClass = errorClass;
  }
}

interface PendingCommand {
  readonly command: string;
  readonly resolve: (value: unknown) => void;
  readonly reject: (reason: Error) => void;
  readonly timer: NodeJS.Timeout;
}

export interface QmpConnectOptions {
  /**
   * For connecting, the greeting and the negotiation together; also the limit of each later
   * command, but at least 30 s.
   */
  readonly timeoutMs: number;
  /** Called between attempts: returns the reason why no QEMU will ever listen, if there is one. */
  readonly givenUp?: () => Error | undefined;
}

/** QEMU's longest responses here are a few KiB; a peer that sends more without a newline is not QEMU. */
const MAX_LINE_BYTES = 1024 * 1024;
const CONNECT_RETRY_MS = 20;
const LEAST_COMMAND_TIMEOUT_MS = 30_000;

/**
 * A client of the QEMU Machine Protocol over a Unix socket (docs/interop/qmp-spec.rst).
 * Commands may overlap; each response has the id of its command. When the connection closes,
 * every pending command is rejected.
 */
export class QmpClient {
  /** Resolves when the connection is closed, for any reason. */
  readonly closed: Promise<void>;
  readonly #socket: Socket;
  readonly #commandTimeoutMs: number;
  readonly #pending = new Map<number, PendingCommand>();
  readonly #listeners = new Set<(event: QmpEvent) => void>();
  readonly #greeting = Promise.withResolvers<void>();
  #received: Buffer[] = [];
  #receivedBytes = 0;
  #nextId = 1;
  #closeError: Error | undefined;

  private constructor(socket: Socket, commandTimeoutMs: number) {
    this.#socket = socket;
    this.#commandTimeoutMs = commandTimeoutMs;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.closed = promise;
    // The greeting is awaited by connect() only; a connection that closes later has no reader
    // for it.
    this.#greeting.promise.catch(() => undefined);
    socket.on('data', (chunk: Buffer) => this.#receive(chunk));
    socket.on('error', (error) => this.#end(`failed: ${error.message}`));
    socket.on('close', () => {
      this.#end('was closed');
      resolve();
    });
  }

  /**
   * Connects, retrying while the socket does not exist or refuses, and negotiates capabilities.
   * Throws `vmm_failed` after the time limit, or what `givenUp` returns.
   */
  static async connect(path: string, options: QmpConnectOptions): Promise<QmpClient> {
    const deadline = performance.now() + options.timeoutMs;
    const client = new QmpClient(
      await openSocket(path, deadline, options.givenUp),
      Math.max(LEAST_COMMAND_TIMEOUT_MS, options.timeoutMs),
    );
    const timer = setTimeout(
      () => client.#abort('did not respond in time'),
      Math.max(1, deadline - performance.now()),
    );
    try {
      await client.#greeting.promise;
      await client.execute('qmp_capabilities');
      return client;
    } catch (error) {
      client.close();
      throw options.givenUp?.() ?? error;
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * Runs one command and returns its `return` value. Throws {@link QmpError} when QEMU refuses
   * it, and `vmm_failed` when there is no response in time or the connection is closed.
   */
  execute(
    command: string,
    parameters?: Readonly<Record<string, unknown>>,
    timeoutMs: number = this.#commandTimeoutMs,
  ): Promise<unknown> {
    if (this.#closeError !== undefined) return Promise.reject(this.#closeError);
    const id = this.#nextId++;
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    const timer = setTimeout(() => {
      this.#pending.delete(id);
      reject(
        new TorporError('vmm_failed', `QEMU did not respond to ${command} within ${timeoutMs} ms.`),
      );
    }, timeoutMs);
    this.#pending.set(id, { command, resolve, reject, timer });
    const message = { execute: command, ...(parameters && { arguments: parameters }), id };
    this.#socket.write(`${JSON.stringify(message)}\r\n`);
    return promise;
  }

  /** Adds a listener for every event from now on; returns a function that removes it. */
  onEvent(listener: (event: QmpEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Closes the connection; QEMU keeps running and accepts the next one. */
  close(): void {
    this.#abort('was closed');
  }

  #abort(how: string): void {
    this.#end(how);
    this.#socket.destroy();
  }

  #end(how: string): void {
    if (this.#closeError !== undefined) return;
    const error = new TorporError('vmm_failed', `The control connection to QEMU ${how}.`);
    this.#closeError = error;
    this.#greeting.reject(error);
    for (const pending of this.#pending.values()) {
      clearTimeout(pending.timer);
      pending.reject(error);
    }
    this.#pending.clear();
  }

  #receive(chunk: Buffer): void {
    let rest = chunk;
    for (let end = rest.indexOf(10); end !== -1; end = rest.indexOf(10)) {
      const line = Buffer.concat([...this.#received, rest.subarray(0, end)]).toString();
      this.#received = [];
      this.#receivedBytes = 0;
      rest = rest.subarray(end + 1);
      if (line.trim() !== '') this.#dispatch(line);
    }
    this.#received.push(rest);
    this.#receivedBytes += rest.length;
    if (this.#receivedBytes > MAX_LINE_BYTES) this.#abort('sent a line that is too long');
  }

  #dispatch(line: string): void {
    const message = parseObject(line);
    if (message === undefined) {
      this.#abort('sent what is not a JSON object');
    } else if ('QMP' in message) {
      this.#greeting.resolve();
    } else if (typeof message.event === 'string') {
      const event = { event: message.event, data: asObject(message.data) ?? {} };
      for (const listener of this.#listeners) listener(event);
    } else {
      this.#settle(message);
    }
  }

  #settle(message: Readonly<Record<string, unknown>>): void {
    const pending = typeof message.id === 'number' ? this.#pending.get(message.id) : undefined;
    if (pending === undefined) return;
    this.#pending.delete(Number(message.id));
    clearTimeout(pending.timer);
    const error = asObject(message.error);
    if (error === undefined) {
      pending.resolve(message.return);
    } else {
      pending.reject(new QmpError(pending.command, String(error.class), String(error.desc)));
    }
  }
}

async function openSocket(
  path: string,
  deadline: number,
  givenUp: QmpConnectOptions['givenUp'],
): Promise<Socket> {
  for (;;) {
    const result = await tryConnect(path);
    if (!(result instanceof Error)) return result;
    const reason = givenUp?.();
    if (reason !== undefined) throw reason;
    if (performance.now() > deadline) {
      throw new TorporError(
        'vmm_failed',
        `QEMU did not open its control socket: ${withFullStop(result.message)}`,
        {
          cause: result,
        },
      );
    }
    await sleep(CONNECT_RETRY_MS);
  }
}

function tryConnect(path: string): Promise<Socket | Error> {
  return new Promise((resolve) => {
    const socket = createConnection(path);
    socket.once('error', resolve);
    socket.once('connect', () => {
      socket.off('error', resolve);
      resolve(socket);
    });
  });
}

function parseObject(line: string): Record<string, unknown> | undefined {
  try {
    return asObject(JSON.parse(line));
  } catch {
    return undefined;
  }
}

function asObject(value: unknown): Record<string, unknown> | undefined {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
    ? Object.fromEntries(Object.entries(value))
    : undefined;
}
