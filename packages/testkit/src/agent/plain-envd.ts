import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

const ENVD = createRequire(import.meta.url).resolve('@torpor/envd/main');

/** The real envd, as a process on this host. */
export class PlainEnvd implements AsyncDisposable {
  readonly url: string;
  readonly #child: ChildProcess;

  static async start(): Promise<PlainEnvd> {
    const child = spawn(process.execPath, [ENVD, '--host', '127.0.0.1', '--port', '0'], {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    const lines: string[] = [];
    if (child.stderr === null) throw new Error('envd has no standard error');
    for await (const line of createInterface({ input: child.stderr })) {
      lines.push(line);
      const port = /listening on 127\.0\.0\.1:(\d+)/.exec(line)?.[1];
      if (port !== undefined) {
        child.stderr.resume();
        return new PlainEnvd(child, `http://127.0.0.1:${port}`);
      }
    }
    throw new Error(`envd did not start: ${lines.join('\n')}`);
  }

  private constructor(child: ChildProcess, url: string) {
    this.#child = child;
    this.url = url;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exited = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await exited;
  }
}
