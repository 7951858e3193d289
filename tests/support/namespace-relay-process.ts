import { createConnection, createServer } from 'node:net';

/* The part of a relay that runs inside a network namespace: from a socket's path to a TCP address. */

const [path = '', host = '', port = ''] = process.argv.slice(2);

createServer((client) => {
  const guest = createConnection({ host, port: Number(port) });
  client.pipe(guest).pipe(client);
  client.on('error', () => guest.destroy());
  guest.on('error', () => client.destroy());
  client.on('close', () => guest.destroy());
  guest.on('close', () => client.destroy());
}).listen(path, () => process.stdout.write('listening\n'));
