import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { IsolationProbe } from '@torpor/testkit/network';
import { type AgentClient, clientOf } from '../agent/agent-under-test.ts';
import { relayIntoNamespace } from '../support/namespace-relay.ts';

const AGENT = fileURLToPath(new URL('../agent/agent-process.ts', import.meta.url));
/** Includes the probe of the accelerator and the preparation of the guest's artefacts. */
const START_TIMEOUT_MS = 300_000;

export interface AgentOnHost extends AsyncDisposable {
  readonly client: AgentClient;
  /** Its port on the host's loopback interface. */
  readonly port: number;
}

/**
 * Starts a host agent on the probe's host, with its slots, its firewall and its guests.
 * Disposing of it destroys its sandboxes and stops it.
 */
export async function startAgentOnHost(
  probe: IsolationProbe,
  dataDir: string,
): Promise<AgentOnHost> {
  await using stack = new AsyncDisposableStack();
  const child = spawn(...probe.onHost(process.execPath, [AGENT, dataDir]), {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, DESTROY_ALL: '1' },
  });
  const exited = once(child, 'exit');
  stack.defer(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill('SIGTERM');
    await exited;
  });
  const failed = exited.then(([code, signal]) => {
    throw new Error(`The host agent exited with ${code ?? signal}.`);
  });
  const [line] = await Promise.race([
    once(createInterface({ input: child.stdout }), 'line', {
      signal: AbortSignal.timeout(START_TIMEOUT_MS),
    }),
    failed,
  ]);
  failed.catch(() => undefined);
  const { port } = JSON.parse(String(line)) as { port: number };
  const relay = stack.use(await relayIntoNamespace(probe.hostNamespace, '127.0.0.1', port));
  const resources = stack.move();
  return {
    client: clientOf(relay.port),
    port,
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  };
}
