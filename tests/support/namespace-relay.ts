import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { type AddressInfo, createConnection, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const RELAY = join(import.meta.dirname, 'namespace-relay-process.ts');

export interface NamespaceRelay extends AsyncDisposable {
  /** Port of 127.0.0.1 that is forwarded to the address in the namespace. */
  readonly port: number;
}

/**
 * Makes a TCP address of a network namespace reachable from this process. Unix sockets
 * with a path are not bound to a namespace: a process inside listens on one.
 */
export async function relayIntoNamespace(
  namespace: string,
  address: string,
  port: number,
): Promise<NamespaceRelay> {
  await using stack = new AsyncDisposableStack();
  const directory = await mkdtemp(join(tmpdir(), 'torpor-relay-'));
  stack.defer(() => rm(directory, { recursive: true, force: true }));
  const path = join(directory, 'relay.sock');
  const args = ['netns', 'exec', namespace, process.execPath, RELAY, path, address, String(port)];
  const child = spawn('ip', args, { stdio: ['ignore', 'pipe', 'inherit'] });
  stack.defer(() => stop(child));
  // The process prints a line when it listens.
  await once(child.stdout, 'data');
  const server = createServer((client) => {
    const inside = createConnection(path);
    client.pipe(inside).pipe(client);
    client.on('error', () => inside.destroy());
    inside.on('error', () => client.destroy());
    client.on('close', () => inside.destroy());
    inside.on('close', () => client.destroy());
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  stack.defer(() => {
    server.close();
  });
  const kept = stack.move();
  return {
    port: (server.address() as AddressInfo).port,
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  };
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exit = once(child, 'exit');
  child.kill('SIGKILL');
  await exit;
}
