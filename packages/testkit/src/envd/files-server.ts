import { mkdir } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { handleFiles } from '@torpor/envd/testing';
import { afterEach, beforeEach } from 'vitest';
import { type TestGuest, testGuest } from './test-guest.ts';

interface Running {
  readonly guest: TestGuest;
  readonly directory: string;
  readonly server: Server;
}

/** A server of `/files` alone, with an empty directory to work in; a new one for each test. */
export class FilesServer {
  #running: Running | undefined;

  /** Starts and stops one around each test of the file or `describe` that calls it. */
  static forEachTest(): FilesServer {
    const files = new FilesServer();
    beforeEach(() => files.#start());
    afterEach(() => files.#stop());
    return files;
  }

  get guest(): TestGuest {
    return this.#current.guest;
  }

  /** Root's, and empty at first. */
  get directory(): string {
    return this.#current.directory;
  }

  get base(): string {
    return `http://127.0.0.1:${(this.#current.server.address() as AddressInfo).port}`;
  }

  /** The URL of a file. */
  url(path: string, query: Record<string, string> = {}): string {
    return `${this.base}/files?${new URLSearchParams({ path, ...query })}`;
  }

  /** Uploads a raw body. */
  put(
    path: string,
    body: NonNullable<RequestInit['body']>,
    headers: Record<string, string> = {},
    query: Record<string, string> = {},
  ): Promise<Response> {
    return fetch(this.url(path, query), {
      method: 'POST',
      body,
      headers: { 'content-type': 'application/octet-stream', ...headers },
      ...(body instanceof ReadableStream ? { duplex: 'half' } : {}),
    } as RequestInit);
  }

  get #current(): Running {
    if (this.#running === undefined) throw new Error('No test runs: the server is not started.');
    return this.#running;
  }

  async #start(): Promise<void> {
    const guest = await testGuest();
    const directory = join(guest.directory, 'work');
    await mkdir(directory);
    const server = createServer((request, response) => {
      void handleFiles(request, response, guest.context);
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    this.#running = { guest, directory, server };
  }

  async #stop(): Promise<void> {
    const { guest, server } = this.#current;
    this.#running = undefined;
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
    await guest[Symbol.asyncDispose]();
  }
}

/** The body of an error response, which repeats its status. */
export async function errorOf(response: Response): Promise<{ code: number; message: string }> {
  const body = (await response.json()) as { code: number; message: string };
  if (body.code !== response.status) {
    throw new Error(`status ${response.status}, and code ${body.code} in the body`);
  }
  return body;
}
