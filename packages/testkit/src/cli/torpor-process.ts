import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import { ServerProcess, TORPOR } from './server-process.ts';

const REPOSITORY = fileURLToPath(new URL('../../../../', import.meta.url));

const readySchema = z.strictObject({
  event: z.literal('ready'),
  api_url: z.url(),
  agent_url: z.url().optional(),
  data_dir: z.string(),
});

/** A `torpor up` as a child, with its own data directory and port. */
export class TorporProcess implements AsyncDisposable {
  readonly dataDir: string;
  readonly apiUrl: string;
  /** Where agents join; undefined if they cannot. */
  readonly agentUrl: string | undefined;
  readonly #server: ServerProcess;

  private constructor(server: ServerProcess, ready: z.infer<typeof readySchema>) {
    this.#server = server;
    this.apiUrl = ready.api_url;
    this.agentUrl = ready.agent_url;
    this.dataDir = ready.data_dir;
  }

  get pid(): number {
    return this.#server.pid;
  }

  /** The last lines of its log. */
  get log(): readonly string[] {
    return this.#server.log;
  }

  /** Starts it; resolves when it reports that it is ready. Throws with the end of its log if it exits instead. */
  static async start(dataDir: string, ...options: string[]): Promise<TorporProcess> {
    const env = { TORPOR_DATA_DIR: dataDir };
    const server = await ServerProcess.start(['up', '--port', '0', ...options], { env });
    const ready = readySchema.safeParse(server.ready);
    if (ready.success) return new TorporProcess(server, ready.data);
    await server.kill();
    throw new Error(`torpor up says: ${JSON.stringify(server.ready)}`);
  }

  /** Stops it in order. Returns its exit status. */
  stop(): Promise<number | null> {
    return this.#server.stop();
  }

  /** Kills it, like a crash. */
  kill(): Promise<void> {
    return this.#server.kill();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#server[Symbol.asyncDispose]();
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
