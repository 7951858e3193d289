import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { connect, createServer, type Server, type Socket } from 'node:net';

/** Where the client's connection is cut. */
export type Cut =
  | 'before the request is forwarded'
  | 'before the response arrives'
  | 'within the response'
  /** And nothing listens for a while, as when the server is started again. */
  | 'before the response arrives, and no connection is accepted for a while';

const AWAY_MS = 700;

/** A relay to a server that cuts the connection of one request, and passes everything else on. */
export class CuttingProxy implements AsyncDisposable {
  #server: Server;
  #port = 0;
  readonly #target: URL;
  readonly #sockets = new Set<Socket>();
  #cut: Cut | undefined;
  /** How many connections were cut. */
  cuts = 0;

  private constructor(target: URL) {
    this.#target = target;
    this.#server = createServer((client) => this.#relay(client));
  }

  static async open(target: string): Promise<CuttingProxy> {
    const proxy = new CuttingProxy(new URL(target));
    await proxy.#listen();
    return proxy;
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  /** Cuts the connection of the next POST. */
  arm(cut: Cut): void {
    this.#cut = cut;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
  }

  async #listen(): Promise<void> {
    this.#server.listen(this.#port, '127.0.0.1');
    await once(this.#server, 'listening');
    this.#port = (this.#server.address() as AddressInfo).port;
  }

  #relay(client: Socket): void {
    const server = connect(Number(this.#target.port), this.#target.hostname);
    let cut: Cut | undefined;
    for (const socket of [client, server]) {
      this.#sockets.add(socket);
      socket.on('error', () => undefined).on('close', () => this.#sockets.delete(socket));
    }
    client.on('data', (chunk: Buffer) => {
      if (chunk.toString('latin1').startsWith('POST') && this.#cut !== undefined) {
        cut = this.#cut;
        this.#cut = undefined;
      }
      if (cut === 'before the request is forwarded') return this.#sever(client, server);
      server.write(chunk);
    });
    server.on('data', (chunk: Buffer) => {
      if (cut === undefined) return client.write(chunk);
      if (cut === 'within the response') {
        return client.write(chunk.subarray(0, chunk.length - 10), () =>
          this.#sever(client, server),
        );
      }
      if (cut.endsWith('for a while')) this.#goAway();
      return this.#sever(client, server);
    });
    client.on('close', () => server.destroy());
    server.on('close', () => client.destroy());
  }

  #sever(client: Socket, server: Socket): void {
    this.cuts += 1;
    client.destroy();
    server.destroy();
  }

  #goAway(): void {
    this.#server.close();
    this.#server = createServer((client) => this.#relay(client));
    setTimeout(() => void this.#listen(), AWAY_MS);
  }
}
