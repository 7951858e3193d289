import { mkdir } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { type TestGuest, testGuest } from '../filesystem/test-guest.ts';
import { handleFiles } from './index.ts';

/** A server of `/files` alone, with an empty directory to work in. */
export class FilesServer implements AsyncDisposable {
  readonly guest: TestGuest;
  readonly directory: string;
  readonly base: string;
  readonly #server: ReturnType<typeof createServer>;

  static async start(): Promise<FilesServer> {
    const guest = await testGuest();
    const directory = join(guest.directory, 'work');
    await mkdir(directory);
    const server = createServer((request, response) => {
      void handleFiles(request, response, guest.context);
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return new FilesServer(guest, directory, server);
  }

  private constructor(
    guest: TestGuest,
    directory: string,
    server: ReturnType<typeof createServer>,
  ) {
    this.guest = guest;
    this.directory = directory;
    this.#server = server;
    this.base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
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

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
    await this.guest[Symbol.asyncDispose]();
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
