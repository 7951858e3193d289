import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';

export const TORPOR = fileURLToPath(new URL('../../../cli/bin/torpor.mjs', import.meta.url));

const REPOSITORY = fileURLToPath(new URL('../../../../', import.meta.url));

const readySchema = z.strictObject({
  event: z.literal('ready'),
  api_url: z.url(),
  agent_url: z.url().optional(),
  data_dir: z.string(),
});

const STOP_TIMEOUT_MS = 60_000;
const LOG_LINES = 60;

/** A `torpor up` as a child, with its own data directory and port. */
export class TorporProcess implements AsyncDisposable {
  readonly dataDir: string;
  readonly apiUrl: string;
  /** Where agents join; undefined if they cannot. */
  readonly agentUrl: string | undefined;
  /** The last lines of its log. */
  readonly log: readonly string[];
  readonly #child: ChildProcess;

  private constructor(
    child: ChildProcess,
    log: readonly string[],
    ready: z.infer<typeof readySchema>,
  ) {
    this.#child = child;
    this.log = log;
    this.apiUrl = ready.api_url;
    this.agentUrl = ready.agent_url;
    this.dataDir = ready.data_dir;
  }

  get pid(): number {
    const { pid } = this.#child;
    if (pid === undefined) throw new Error('torpor up was not started.');
    return pid;
  }

  /** Starts it; resolves when it reports that it is ready. Throws with the end of its log if it exits instead. */
  static async start(dataDir: string, ...options: string[]): Promise<TorporProcess> {
    const child = spawn(process.execPath, [TORPOR, 'up', '--json', '--port', '0', ...options], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, TORPOR_DATA_DIR: dataDir },
    });
    const log: string[] = [];
    createInterface({ input: child.stderr }).on('line', (line) => {
      log.push(line);
      if (log.length > LOG_LINES) log.shift();
    });
    const failed = once(child, 'exit').then(([code, signal]) => {
      throw new Error(`torpor up exited with ${code ?? signal}:\n${log.join('\n')}`);
    });
    const [line] = await Promise.race([
      once(createInterface({ input: child.stdout }), 'line'),
      failed,
    ]);
    failed.catch(() => undefined);
    const ready = readySchema.safeParse(JSON.parse(String(line)));
    if (!ready.success) throw new Error(`torpor up says: ${line}\n${log.join('\n')}`);
    return new TorporProcess(child, log, ready.data);
  }

  /** Stops it in order. Returns its exit status. */
  async stop(): Promise<number | null> {
    return this.#end('SIGTERM');
  }

  /** Kills it, like a crash. */
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

/** A data directory that is removed after the test. */
export async function temporaryDataDir(): Promise<AsyncDisposable & { readonly path: string }> {
  const path = await mkdtemp(join(tmpdir(), 'torpor-e2e-'));
  return {
    path,
    [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }),
  };
}

export interface CommandResult {
  readonly exitCode: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

interface RunOptions {
  readonly input?: string;
  readonly onSpawn?: (child: ChildProcess) => void;
}

/** Runs the CLI as a program. */
export function runTorpor(
  dataDir: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<CommandResult> {
  return runProgram(dataDir, [process.execPath, TORPOR, ...args], options);
}

/** Runs a script of a user in the checkout. */
export function runShell(dataDir: string, script: string): Promise<CommandResult> {
  return runProgram(dataDir, ['/bin/bash', '-c', script], {});
}

async function runProgram(
  dataDir: string,
  [program = '', ...args]: readonly string[],
  options: RunOptions,
): Promise<CommandResult> {
  const child = spawn(program, args, {
    cwd: REPOSITORY,
    env: { ...process.env, TORPOR_DATA_DIR: dataDir },
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  options.onSpawn?.(child);
  child.stdin.on('error', () => undefined);
  child.stdin.end(options.input ?? '');
  const [stdout, stderr, [exitCode]] = await Promise.all([
    child.stdout.toArray(),
    child.stderr.toArray(),
    once(child, 'close'),
  ]);
  return {
    exitCode,
    stdout: Buffer.concat(stdout).toString(),
    stderr: Buffer.concat(stderr).toString(),
  };
}
