import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';

interface Request {
  readonly id: number;
  readonly name: string;
  /** What the handler of this name takes. */
  readonly argument: never;
}

interface Reply {
  readonly id: number;
  readonly result?: unknown;
  readonly error?: string;
}

/** A program in a process of its own that serves requests; see {@link serveRequests}. */
export class Program implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, PromiseWithResolvers<unknown>>();
  #requests = 0;

  private constructor(child: ChildProcess) {
    this.#child = child;
    child.on('message', ({ id, result, error }: Reply) => {
      const waiting = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (error === undefined) waiting?.resolve(result);
      else waiting?.reject(new Error(error));
    });
    child.on('exit', (code, signal) => {
      for (const { reject } of this.#waiting.values()) {
        reject(new Error(`The program exited (${signal ?? code}).`));
      }
    });
  }

  static start(path: string): Program {
    return new Program(fork(path, [], { execArgv: [], serialization: 'advanced' }));
  }

  /** Resolves with what the handler returns. */
  ask<Result>(name: string, argument?: unknown): Promise<Result> {
    const id = ++this.#requests;
    const reply = Promise.withResolvers<unknown>();
    this.#waiting.set(id, reply);
    this.#child.send({ id, name, argument });
    return reply.promise as Promise<Result>;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exited = once(this.#child, 'exit');
    this.#child.disconnect();
    await exited;
  }
}

/** Serves the requests of the process that started this one, and calls `close` when that leaves. */
export function serveRequests(
  handlers: Readonly<Record<string, (argument: never) => unknown>>,
  close: () => Promise<void>,
): void {
  process.on('message', async ({ id, name, argument }: Request) => {
    try {
      const result = await handlers[name]?.(argument);
      process.send?.({ id, result });
    } catch (error) {
      process.send?.({ id, error: error instanceof Error ? error.stack : String(error) });
    }
  });
  process.on('disconnect', () => void close().finally(() => process.exit()));
}
