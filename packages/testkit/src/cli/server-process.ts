import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

export const TORPOR = fileURLToPath(new URL('../../../cli/bin/torpor.mjs', import.meta.url));

const STOP_TIMEOUT_MS = 60_000;
const LOG_LINES = 60;

export interface ServerProcessOptions {
  readonly env?: NodeJS.ProcessEnv;
  /** The network namespace that it runs in; that of this process if omitted. */
  readonly namespace?: string | undefined;
}

/** A command of `torpor` that serves until it is stopped, as a child. */
export class ServerProcess implements AsyncDisposable {
  /** What it has printed when it was ready. */
  readonly ready: unknown;
  /** The last lines of its log. */
  readonly log: readonly string[];
  readonly #child: ChildProcess;

  private constructor(child: ChildProcess, log: readonly string[], ready: unknown) {
    this.#child = child;
    this.log = log;
    this.ready = ready;
  }

  /** Resolves when it reports that it is ready. Throws with the end of its log if it exits instead. */
  static async start(
    args: readonly string[],
    { env, namespace }: ServerProcessOptions = {},
  ): Promise<ServerProcess> {
    const command = [process.execPath, TORPOR, ...args, '--json'];
    // Not `ip netns exec`: in its mount namespace, the namespaces that an agent makes are not ours.
    if (namespace !== undefined) command.unshift('nsenter', `--net=/run/netns/${namespace}`, '--');
    const [program = '', ...rest] = command;
    const child = spawn(program, rest, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...env },
    });
    const log: string[] = [];
    createInterface({ input: child.stderr }).on('line', (line) => {
      log.push(line);
      if (log.length > LOG_LINES) log.shift();
    });
    const failed = once(child, 'exit').then(([code, signal]) => {
      throw new Error(`torpor ${args[0]} exited with ${code ?? signal}:\n${log.join('\n')}`);
    });
    const [line] = await Promise.race([
      once(createInterface({ input: child.stdout }), 'line'),
      failed,
    ]);
    failed.catch(() => undefined);
    return new ServerProcess(child, log, JSON.parse(String(line)));
  }

  get pid(): number {
    const { pid } = this.#child;
    if (pid === undefined) throw new Error('The server was not started.');
    return pid;
  }

  /** Stops it in order. Returns its exit status. */
  async stop(): Promise<number | null> {
    return this.#end('SIGTERM');
  }

  /** Kills it, like a crash. The signal has been sent when this returns a promise. */
  async kill(): Promise<void> {
    await this.#end('SIGKILL');
  }

  async #end(signal: NodeJS.Signals): Promise<number | null> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) {
      return this.#child.exitCode;
    }
    const exited = once(this.#child, 'exit', { signal: AbortSignal.timeout(STOP_TIMEOUT_MS) });
    this.#child.kill(signal);
    const [code] = await exited;
    return code;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop().catch(() => this.kill());
  }
}
