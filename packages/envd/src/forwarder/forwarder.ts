import { readFile } from 'node:fs/promises';
import { connect, createServer, type Server } from 'node:net';
import { type ListeningSocket, parseListening } from './proc-net-tcp.ts';

export interface ForwarderOptions {
  /** Address to listen on for every loopback server: the guest's own. */
  readonly address: string;
  /** Ports that are never forwarded. */
  readonly exclude: readonly number[];
  readonly intervalMs?: number;
  /** Where the kernel's tables are; /proc/net by default. */
  readonly tables?: readonly string[];
}

export interface Forwarder {
  close(): void;
}

const SCAN_INTERVAL_MS = 1000;
const PROC_TABLES = ['/proc/net/tcp', '/proc/net/tcp6'];
/** Above it, a guest that opens thousands of ports would cost envd its file descriptors. */
const MAX_FORWARDED = 256;

/**
 * Makes servers that listen on loopback only reachable from outside the guest: listens on the
 * same port of the guest's address and forwards bytes, until the server has exited. Ports that
 * are already served on that address are skipped.
 */
export function startForwarder(options: ForwarderOptions): Forwarder {
  const tables = options.tables ?? PROC_TABLES;
  const forwarded = new Map<number, Server>();
  let lastTables = '';
  let closed = false;

  const scan = async (): Promise<void> => {
    const texts = await Promise.all(tables.map((path) => readFile(path, 'latin1').catch(() => '')));
    // Nothing would close what is opened after a close.
    if (closed) return;
    const listening = texts.flatMap((text) => parseListening(text));
    const summary = listening
      .map(({ address, port }) => `${address}:${port}`)
      .sort()
      .join(' ');
    if (summary === lastTables) return;
    lastTables = summary;
    const wanted = loopbackOnlyPorts(listening, options);
    for (const [port, server] of forwarded) {
      if (wanted.has(port)) continue;
      server.close();
      forwarded.delete(port);
    }
    for (const [port, target] of wanted) {
      if (forwarded.has(port) || forwarded.size >= MAX_FORWARDED) continue;
      const server = forward(options.address, port, target);
      forwarded.set(port, server);
      server.on('error', () => {
        // The port was taken since the scan; it is checked again at the next change.
        forwarded.delete(port);
        lastTables = '';
      });
    }
  };

  let timer: NodeJS.Timeout;
  const loop = (): void => {
    timer = setTimeout(() => {
      scan()
        .catch((error: unknown) => console.error('envd: port forwarder:', error))
        .finally(() => {
          if (!closed) loop();
        });
    }, options.intervalMs ?? SCAN_INTERVAL_MS);
    timer.unref();
  };
  loop();

  return {
    close() {
      closed = true;
      clearTimeout(timer);
      for (const server of forwarded.values()) server.close();
      forwarded.clear();
    },
  };
}

/** Ports that are served on loopback and not on the guest's address, with the loopback address. */
function loopbackOnlyPorts(
  listening: readonly ListeningSocket[],
  { address, exclude }: ForwarderOptions,
): Map<number, string> {
  const taken = new Set(exclude);
  for (const socket of listening) {
    if (socket.address === '0.0.0.0' || socket.address === '::') taken.add(socket.port);
  }
  const ports = new Map<number, string>();
  for (const socket of listening) {
    const isLoopback = socket.address === '::1' || socket.address.startsWith('127.');
    if (!isLoopback || taken.has(socket.port) || socket.address === address) continue;
    // A server on both families is reached over IPv4.
    if (socket.address === '::1' && ports.has(socket.port)) continue;
    ports.set(socket.port, socket.address);
  }
  return ports;
}

function forward(address: string, port: number, target: string): Server {
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (inbound) => {
    const outbound = connect({ host: target, port, allowHalfOpen: true });
    inbound.setNoDelay(true);
    outbound.setNoDelay(true);
    inbound.pipe(outbound);
    outbound.pipe(inbound);
    const cut = (): void => {
      inbound.destroy();
      outbound.destroy();
    };
    inbound.on('error', cut);
    outbound.on('error', cut);
    inbound.on('close', () => {
      if (inbound.errored !== null || !inbound.writableFinished) cut();
    });
    outbound.on('close', () => {
      if (outbound.errored !== null || !outbound.writableFinished) cut();
    });
  });
  server.listen({ host: address, port });
  server.unref();
  return server;
}
