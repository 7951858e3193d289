import { setTimeout as sleep } from 'node:timers/promises';
import { TorporError, withFullStop } from '@torpor/protocol';
import { Client } from 'undici';
import { z } from 'zod';
import type { ApiRequest } from './api-types.ts';

/** Firecracker's message when it refused a call; the cause of the error that the caller gets. */
export class FirecrackerFault extends Error {
  override readonly name = 'FirecrackerFault';
}

export interface ApiConnectOptions {
  /** From the first attempt to the first response; also the limit of each later call, but at least 30 s. */
  readonly timeoutMs: number;
  /** Called between attempts: returns the reason why no Firecracker will ever respond, if there is one. */
  readonly givenUp?: () => Error | undefined;
}

/** What `GET /` returns. */
export type InstanceState = 'Not started' | 'Running' | 'Paused';

const CONNECT_RETRY_MS = 5;
const LEAST_CALL_TIMEOUT_MS = 30_000;
/** Firecracker's longest responses here are a few hundred bytes. */
const MAX_ANSWER_BYTES = 256 * 1024;
const MAX_FAULT_LENGTH = 1000;
/** Snapshots take as long as their RAM is large; the call fails when the process exits. */
const UNLIMITED_PATHS: readonly string[] = ['/snapshot/create', '/snapshot/load'];

const versionSchema = z.looseObject({ firecracker_version: z.string().max(100) });
const instanceSchema = z.looseObject({ state: z.enum(['Not started', 'Running', 'Paused']) });
const faultSchema = z.looseObject({ fault_message: z.string() });

/**
 * A client of Firecracker's API: HTTP/1.1 over a Unix socket. Firecracker handles one call at a
 * time, and so the client sends one at a time, in the order in which they were made; a call's
 * time limit counts from when it is sent.
 */
export class FirecrackerClient {
  /** As `GET /version` returns it, e.g. `1.16.1`. */
  readonly version: string;
  readonly #client: Client;
  readonly #callTimeoutMs: number;
  #last: Promise<unknown> = Promise.resolve();

  private constructor(client: Client, version: string, callTimeoutMs: number) {
    this.#client = client;
    this.#callTimeoutMs = callTimeoutMs;
    this.version = version;
  }

  /**
   * Waits for Firecracker to respond on its socket. Throws `vmm_failed` after the time limit,
   * or what `givenUp` returns.
   */
  static async connect(socketPath: string, options: ApiConnectOptions): Promise<FirecrackerClient> {
    const deadline = performance.now() + options.timeoutMs;
    const client = new Client('http://localhost', {
      socketPath,
      pipelining: 1,
      headersTimeout: 0,
      bodyTimeout: 0,
      maxResponseSize: MAX_ANSWER_BYTES,
    });
    for (;;) {
      const left = Math.max(1, Math.ceil(deadline - performance.now()));
      try {
        const response = await call(client, 'GET', '/version', undefined, left);
        const version = parse(versionSchema, response).firecracker_version;
        const callTimeoutMs = Math.max(LEAST_CALL_TIMEOUT_MS, options.timeoutMs);
        return new FirecrackerClient(client, version, callTimeoutMs);
      } catch (error) {
        const reason = options.givenUp?.() ?? (isNotListening(error) ? undefined : error);
        if (reason === undefined && performance.now() < deadline) {
          await sleep(CONNECT_RETRY_MS);
          continue;
        }
        await client.destroy();
        throw reason ?? error;
      }
    }
  }

  /** Throws `vmm_failed`: with Firecracker's own message if it refuses, or if it does not respond. */
  async send(request: ApiRequest): Promise<void> {
    const { method, path, body } = request;
    const timeoutMs = UNLIMITED_PATHS.includes(path) ? undefined : this.#callTimeoutMs;
    await this.#inTurn(() => call(this.#client, method, path, body, timeoutMs));
  }

  /** Throws `vmm_failed`. */
  async state(): Promise<InstanceState> {
    const response = await this.#inTurn(() =>
      call(this.#client, 'GET', '/', undefined, this.#callTimeoutMs),
    );
    return parse(instanceSchema, response).state;
  }

  /** Closes the connection; calls in progress are rejected. */
  async close(): Promise<void> {
    await this.#client.destroy();
  }

  #inTurn<T>(run: () => Promise<T>): Promise<T> {
    const result = this.#last.then(run);
    this.#last = result.catch(() => undefined);
    return result;
  }
}

/** One call; its response's JSON, or undefined for 204. */
async function call(
  client: Client,
  method: 'GET' | 'PUT' | 'PATCH',
  path: string,
  body: object | undefined,
  timeoutMs: number | undefined,
): Promise<unknown> {
  let status: number;
  let text: string;
  try {
    const response = await client.request({
      method,
      path,
      headers: { accept: 'application/json', 'content-type': 'application/json' },
      body: body === undefined ? null : JSON.stringify(body),
      ...(timeoutMs === undefined ? {} : { signal: AbortSignal.timeout(timeoutMs) }),
    });
    status = response.statusCode;
    text = await response.body.text();
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    const what = `Firecracker did not respond to ${method} ${path}: ${why}`;
    throw new TorporError('vmm_failed', withFullStop(what), { cause: error });
  }
  const json = parseJson(text);
  if (status === 200) return json;
  if (status === 204) return undefined;
  const fault = faultSchema.safeParse(json);
  const message = fault.success ? fault.data.fault_message : `status ${status}`;
  const cause = new FirecrackerFault(plainText(message));
  const what = `Firecracker refused ${method} ${path}: ${cause.message}`;
  throw new TorporError('vmm_failed', withFullStop(what), { cause });
}

/** Whether nothing listens on the socket, or it does not exist, yet. */
function isNotListening(error: unknown): boolean {
  const cause = error instanceof Error ? error.cause : undefined;
  if (!(cause instanceof Error) || !('code' in cause)) return false;
  return cause.code === 'ENOENT' || cause.code === 'ECONNREFUSED';
}

function parse<T>(schema: z.ZodType<T>, response: unknown): T {
  const result = schema.safeParse(response);
  if (result.success) return result.data;
  throw new TorporError('vmm_failed', 'Firecracker returned a response that cannot be parsed.');
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function plainText(message: string): string {
  return message
    .replace(/\p{Cc}+/gu, ' ')
    .trim()
    .slice(0, MAX_FAULT_LENGTH);
}
