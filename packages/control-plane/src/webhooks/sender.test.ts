import { once } from 'node:events';
import { type AddressInfo, connect, createServer } from 'node:net';
import { expect, test } from 'vitest';
import { describeFailure } from './sender.ts';

test('a name of several addresses, none of which accepts a connection, has a reason for each', async () => {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  const addresses = ['127.0.0.1', '127.0.0.2'].map((address) => ({ address, family: 4 }));
  const socket = connect({
    host: 'receiver.example',
    port,
    autoSelectFamily: true,
    lookup: (_, __, callback) => callback(null, addresses),
  });
  const [error] = await once(socket, 'error').catch((reason: unknown) => [reason]);
  expect(describeFailure(error)).toBe(
    `connect ECONNREFUSED 127.0.0.1:${port}; connect ECONNREFUSED 127.0.0.2:${port}`,
  );
});
