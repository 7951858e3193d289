import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { type AgentClient, clientOf } from './agent-under-test.ts';

const AGENT = fileURLToPath(new URL('./agent-process.ts', import.meta.url));
const START_TIMEOUT_MS = 300_000;

/** The host agent of a data directory, as a separate process that can be killed and started again. */
export class KillableAgent {
  readonly #dataDir: string;
  #process: ChildProcess | undefined;
  #client: AgentClient | undefined;

  constructor(dataDir: string) {
    this.#dataDir = dataDir;
  }

  /** A client of the running agent. */
  get client(): AgentClient {
    if (this.#client === undefined) throw new Error('no agent has been started');
    return this.#client;
  }

  /** Starts an agent and waits until it serves. */
  async start(environment: Record<string, string> = {}): Promise<void> {
    const child = spawn(process.execPath, [AGENT, this.#dataDir], {
      stdio: ['ignore', 'pipe', 'inherit'],
      env: { ...process.env, ...environment },
    });
    this.#process = child;
    const lines = createInterface({ input: child.stdout });
    const [line] = await once(lines, 'line', { signal: AbortSignal.timeout(START_TIMEOUT_MS) });
    this.#client = clientOf((JSON.parse(line) as { port: number }).port);
  }

  /** Terminates the agent with a signal and waits until it has exited. */
  async end(signal: NodeJS.Signals): Promise<void> {
    const child = this.#process;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, 'exit');
    child.kill(signal);
    await exited;
  }
}
