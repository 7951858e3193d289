import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { rest } from '@torpor/protocol';

/** A receiver of webhooks, which can be down for a while. */
export class Receiver implements AsyncDisposable {
  /** What it has accepted, in order. */
  readonly events: rest.Event[] = [];
  /** How many requests it has refused. */
  refused = 0;
  isDown = false;
  readonly #server: Server;

  private constructor(server: Server) {
    this.#server = server;
  }

  static async open(host = '127.0.0.1'): Promise<Receiver> {
    const server = createServer(async (request, response) => {
      const body = await text(request);
      if (receiver.isDown) receiver.refused++;
      else receiver.events.push(rest.eventSchema.parse(JSON.parse(body)));
      response.writeHead(receiver.isDown ? 503 : 204).end();
    });
    const receiver = new Receiver(server);
    server.listen(0, host);
    await once(server, 'listening');
    return receiver;
  }

  get url(): string {
    const { address, port } = this.#server.address() as AddressInfo;
    return `http://${address}:${port}/`;
  }

  /** The ids of the events of each resource, in the order in which each was first accepted. */
  byResource(): Map<string, string[]> {
    const received = new Map<string, string[]>();
    for (const { id, resource } of this.events) {
      const ids = received.get(resource.id) ?? [];
      if (!ids.includes(id)) ids.push(id);
      received.set(resource.id, ids);
    }
    return received;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}
