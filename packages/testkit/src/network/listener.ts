/**
 * A program: an HTTP and a UDP server on one port of every address of the
 * namespace that it runs in. It reports on standard output, one JSON object per
 * line, that it is ready and who connected. `node listener.ts <port>`.
 */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { createServer } from 'node:http';

const port = Number(process.argv[2]);

function report(event: object): void {
  process.stdout.write(`${JSON.stringify(event)}\n`);
}

for (const host of ['0.0.0.0', '::']) {
  const server = createServer((_request, response) => {
    const { localAddress, remoteAddress } = response.req.socket;
    response.end(JSON.stringify({ local: localAddress, peer: remoteAddress }));
  });
  server.on('connection', (socket) => {
    report({ event: 'tcp', local: socket.localAddress, peer: socket.remoteAddress });
    socket.on('error', () => undefined);
  });
  server.listen({ host, port, ipv6Only: host === '::' });
  await once(server, 'listening');
}

const socket = createSocket('udp4');
socket.on('message', (message, from) => {
  report({ event: 'udp', peer: from.address, text: message.toString() });
});
socket.bind(port);
await once(socket, 'listening');

report({ event: 'ready' });
