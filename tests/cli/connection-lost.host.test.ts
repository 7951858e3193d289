import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { cli, TORPOR } from '@torpor/testkit/cli';
import { expect, test } from 'vitest';
import { startHostStack } from '../support/host-stack.ts';
import { eventually, openTerminal } from '../support/terminal.ts';

test('one signal terminates exec --tty while it reconnects: it cannot be passed on', async () => {
  await using stack = await startHostStack();
  const id = (await cli(['create'], { env: { TORPOR_DATA_DIR: stack.dataDir } })).stdout.trim();
  await using proxy = await startProxy(stack.apiUrl);
  const command = `exec --tty -u root ${id} -- sh -c 'echo ready; sleep 600'`;
  using terminal = openTerminal(`exec ${process.execPath} ${TORPOR} ${command}`, {
    TORPOR_API_URL: proxy.url,
    TORPOR_API_KEY: stack.apiKey,
  });
  await eventually(() => terminal.output().includes('ready'), 'the program is ready');
  await proxy.close();
  await eventually(() => terminal.output().includes('reconnecting'), 'the loss is noticed');
  process.kill(terminal.pid, 'SIGTERM');
  expect(await terminal.exited).toBe(143);
  expect(terminal.output()).not.toContain('→');
});

/** A proxy between a client and the server, which can be closed. */
async function startProxy(serverUrl: string) {
  const { hostname, port } = new URL(serverUrl);
  const sockets = new Set<Socket>();
  const proxy = createServer((client) => {
    const server = connect(Number(port), hostname);
    for (const socket of [client, server]) {
      sockets.add(socket);
      socket.on('error', () => undefined);
    }
    client.pipe(server).pipe(client);
  });
  proxy.listen(0, '127.0.0.1');
  await once(proxy, 'listening');
  const close = async () => {
    if (!proxy.listening) return;
    proxy.close();
    for (const socket of sockets) socket.destroy();
    await once(proxy, 'close');
  };
  const url = `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`;
  return { url, close, [Symbol.asyncDispose]: close };
}
