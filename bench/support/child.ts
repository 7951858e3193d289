import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { once } from 'node:events';
import type { Readable } from 'node:stream';

/** A server program that runs until it is disposed of; ready when it has printed its first message. */
export class Server implements AsyncDisposable {
  /** The first message that it printed. */
  readonly message: string;
  readonly pid: number;
  readonly #child: ChildProcessByStdio<null, Readable, null>;

  private constructor(
    child: ChildProcessByStdio<null, Readable, null>,
    pid: number,
    message: string,
  ) {
    this.#child = child;
    this.pid = pid;
    this.message = message;
  }

  static async start(program: string, args: readonly string[]): Promise<Server> {
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit'] });
    const failed = once(child, 'exit').then(([code]) => {
      throw new Error(`${program} exited with ${code} before it was ready.`);
    });
    const [message] = await Promise.race([once(child.stdout, 'data'), failed]);
    failed.catch(() => undefined);
    return new Server(child, child.pid ?? 0, String(message).trim());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exited = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await exited;
  }
}
