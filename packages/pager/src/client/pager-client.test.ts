import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { readLines } from '../control/lines.ts';
import { PagerClient } from './pager-client.ts';

/** Speaks the protocol as a pager of another release does. */
async function pagerOfVersion(protocolVersion: number) {
  await using resources = new AsyncDisposableStack();
  const directory = await mkdtemp(join(tmpdir(), 'torpor-pager-'));
  resources.defer(() => rm(directory, { recursive: true, force: true }));
  const socketPath = join(directory, 'pager.sock');
  const connections: Socket[] = [];
  const server = createServer((socket) => {
    connections.push(socket);
    readLines(socket, 1024, (line) => {
      const { id } = JSON.parse(line) as { id: number };
      const result = { protocolVersion, pid: process.pid, vms: [] };
      socket.write(`${JSON.stringify({ id, result })}\n`);
    });
  });
  await new Promise<void>((resolve) => server.listen(socketPath, resolve));
  resources.defer(() => {
    for (const socket of connections) socket.destroy();
    server.close();
  });
  const owned = resources.move();
  return {
    socketPath,
    send: (event: object) => connections[0]?.write(`${JSON.stringify(event)}\n`),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

describe('a pager of another release', () => {
  test.each([
    [1, 'ended'],
    [2, 'released'],
  ])('of version %i reports the release of a VM as %s', async (version, name) => {
    await using pager = await pagerOfVersion(version);
    const { client } = await PagerClient.connect(pager.socketPath);
    const received = new Promise((resolve) => client.onEvent(resolve));
    pager.send({ event: name, vm: 'vm' });
    expect(await received).toEqual({ event: 'released', vm: 'vm' });
    client.close();
  });

  test('of a version that is not known is refused', async () => {
    await using pager = await pagerOfVersion(3);
    await expect(PagerClient.connect(pager.socketPath)).rejects.toThrow(
      'The page server has version 3 of the protocol.',
    );
  });
});
