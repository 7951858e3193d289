import { readdir, readFile } from 'node:fs/promises';
import { type Client, createClient } from '@connectrpc/connect';
import { createConnectTransport } from '@connectrpc/connect-node';
import { hostAgent } from '@torpor/protocol';
import { readHost } from '@torpor/testkit/leaks';

export type AgentClient = Client<typeof hostAgent.HostAgentService>;

/** The cache directory of the tests, with kernel and images. */
export const CACHE_DIR = process.env.TORPOR_CACHE_DIR ?? '/var/lib/torpor';

export function clientOf(port: number): AgentClient {
  return createClient(
    hostAgent.HostAgentService,
    createConnectTransport({ baseUrl: `http://127.0.0.1:${port}`, httpVersion: '1.1' }),
  );
}

export function text(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString();
}

/** Runs `sh -c` in a sandbox and returns its output; throws if it fails. */
export async function run(
  client: AgentClient,
  sandboxId: string,
  script: string,
  options: { readonly user?: string; readonly timeoutSec?: number } = {},
): Promise<string> {
  const { exitCode, stdout, stderr } = await client.exec({
    sandboxId,
    cmd: '/bin/sh',
    args: ['-c', script],
    ...options,
  });
  if (exitCode !== 0) throw new Error(`${script} exited with ${exitCode}: ${text(stderr)}`);
  return text(stdout);
}

/** Everything outside the data directory that this machine still has of an agent's instance. */
export async function leftovers(instance: string, dataDir: string): Promise<string[]> {
  const readings = Object.entries(await readHost());
  return readings.flatMap(([kind, names]: [string, ReadonlySet<string>]) =>
    [...names]
      .filter((name) => name.includes(instance) || (kind === 'processes' && name.includes(dataDir)))
      .map((name) => `${kind}: ${name}`),
  );
}

/** The VMMs on this machine whose arguments name the sandbox. */
export async function vmmsOf(sandboxId: string): Promise<number[]> {
  const pids: number[] = [];
  for (const entry of await readdir('/proc')) {
    if (!/^[0-9]+$/.test(entry)) continue;
    const commandLine = await readFile(`/proc/${entry}/cmdline`, 'utf8').catch(() => '');
    const [program = ''] = commandLine.split('\0');
    if (/qemu/.test(program) && commandLine.includes(sandboxId)) pids.push(Number(entry));
  }
  return pids;
}
