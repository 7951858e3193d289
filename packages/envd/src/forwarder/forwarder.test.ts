import { execFileSync } from 'node:child_process';
import { mkdtemp, open, rm } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { type Forwarder, startForwarder } from './forwarder.ts';
import { parseListening } from './proc-net-tcp.ts';

/** A loaded machine may take longer than the default of one second. */
const POLLING = { timeout: 20_000 };

/**
 * Used as the guest's address: loopback, but neither the one that the servers listen on, nor
 * that of another run of these tests, whose forwarder would serve the same ports.
 */
const GUEST = `127.77.${(process.pid >> 8) & 0xff}.${(process.pid & 0xff) | 1}`;

const servers: Server[] = [];
let forwarder: Forwarder | undefined;

afterEach(async () => {
  forwarder?.close();
  await Promise.all(servers.splice(0).map(close));
});

function close(server: Server): Promise<void> {
  server.closeAllConnections();
  return new Promise((resolve) => {
    server.close(() => resolve());
  });
}

async function serve(host: string): Promise<number> {
  const server = createServer((request, response) => request.pipe(response));
  await new Promise<void>((resolve) => {
    server.listen(0, host, () => resolve());
  });
  servers.push(server);
  return (server.address() as AddressInfo).port;
}

function start(exclude: number[] = []): void {
  forwarder = startForwarder({ address: GUEST, exclude, intervalMs: 20 });
}

function accepts(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, GUEST);
    socket.once('connect', () => resolve(true));
    socket.once('error', () => resolve(false));
    socket.once('close', () => socket.destroy());
    socket.once('connect', () => socket.destroy());
  });
}

describe('the port forwarder', () => {
  it.each(['127.0.0.1', '::1'])(
    'makes a server on %s reachable until it has exited',
    async (host) => {
      const port = await serve(host);
      start();
      await expect.poll(() => accepts(port), POLLING).toBe(true);
      const body = 'x'.repeat(3_000_000);
      const response = await fetch(`http://${GUEST}:${port}/`, { method: 'POST', body });
      expect(await response.text()).toBe(body);
      await Promise.all(servers.splice(0).map(close));
      await expect.poll(() => accepts(port), POLLING).toBe(false);
    },
  );

  it('forwards servers that start later', async () => {
    start();
    const port = await serve('127.0.0.1');
    await expect.poll(() => accepts(port), POLLING).toBe(true);
  });

  it('opens nothing after it was closed, also if it was reading the tables', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'torpor-forwarder-'));
    const table = join(directory, 'tcp');
    execFileSync('mkfifo', [table]);
    const port = await serve('127.0.0.1');
    const reading = startForwarder({ address: GUEST, exclude: [], intervalMs: 1, tables: [table] });
    // Resolves once the forwarder has opened it to read.
    const writer = await open(table, 'w');
    reading.close();
    const hex = port.toString(16).toUpperCase().padStart(4, '0');
    await writer.writeFile(`\n   0: 0100007F:${hex} 00000000:0000 0A 0:0 0:0 0 0 0 1\n`);
    await writer.close();
    await rm(directory, { recursive: true });
    start([port]);
    const marker = await serve('127.0.0.1');
    await expect.poll(() => accepts(marker), POLLING).toBe(true);
    expect(await accepts(port)).toBe(false);
  });

  it('skips excluded ports, and those that are served on every address', async () => {
    const excluded = await serve('127.0.0.1');
    const everywhere = await serve('0.0.0.0');
    const marker = await serve('127.0.0.1');
    start([excluded]);
    await expect.poll(() => accepts(marker), POLLING).toBe(true);
    expect(await accepts(excluded)).toBe(false);
    const response = await fetch(`http://${GUEST}:${everywhere}/`, {
      method: 'POST',
      body: 'itself',
    });
    expect(await response.text()).toBe('itself');
  });
});

describe('parseListening', () => {
  it('reads addresses of both families and skips what does not listen', () => {
    const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 27373 1
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 20170 1
   2: 0100007F:1F90 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 27400 1
   3: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 1
   4: 00000000000000000000000000000000:01BB 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 1
   5: 0000000000000000FFFF00000100007F:0051 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 1
`;
    expect(parseListening(table).map(({ address, port }) => `${address} ${port}`)).toEqual([
      '127.0.0.1 8080',
      '0.0.0.0 22',
      '::1 80',
      ':: 443',
      '127.0.0.1 81',
    ]);
  });

  it('reads an empty table', () => {
    expect(parseListening('')).toEqual([]);
  });
});
